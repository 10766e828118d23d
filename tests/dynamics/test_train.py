"""Training on a real Ray: the five stages recover the drawn scores, and survive a kill without a trace."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from fer.dynamics.options import STAGES, DynamicsConfig
from fer.dynamics.sequences import write_sequences
from fer.dynamics.stages import finished
from fer.options import parse
from jobs.__main__ import RECIPES, main
from jobs.dynamics import main as run

TINY = {
    "backbone": "resnet18",
    "model_kwargs": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_type": "deep", "stem_width": 4},
}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def small(root: Path, out: Path, name: str, **changes: Any) -> DynamicsConfig:
    """One epoch a stage, but two for 2b, on ten videos of four frames."""
    stages = {f"stage_{stage}": {"epochs": 2 if stage == "2b" else 1} for stage in STAGES}
    settings = {"pretrained": False, "batch_size": 8, "workers": 1, "device": "cpu", **TINY, **stages, **changes}
    return DynamicsConfig(data=str(root), out_dir=str(out), name=name, **settings)


def weights(root: Path) -> dict[str, Any]:
    return load_file(root / "model" / "model.safetensors")


def test_sixty_videos_five_stages(tmp_path: Path, ray_cluster: None) -> None:
    """Split by video, so the people that are judged are new to the model; with the small recipe."""
    write_sequences(tmp_path / "frames", videos=60, frames=12, jitter=0.005)
    argv = ["--config", "small-cpu", "--data", str(tmp_path / "frames"), "--out-dir", str(tmp_path), "--name", "sixty"]
    config = parse(DynamicsConfig, argv, "dynamics", RECIPES / "dynamics")
    started = time.monotonic()
    run(config)
    print(f"{time.monotonic() - started:.0f} seconds")

    folder = tmp_path / "sixty"
    metrics = json.loads((folder / "metrics.json").read_text())
    stages, final = metrics["stages"], metrics["final"]
    assert list(stages) == list(STAGES)
    assert final["dynamics"]["kappa"]["value"] >= 0.85
    assert final["synkinesis"]["kappa"]["value"] >= 0.75
    loss = {stage: sum(stages[stage][score]["mse"] for score in final) for stage in stages}
    assert loss["4"] < min(loss["1"], loss["2a"], loss["2b"]), "the fusion is better than either path alone"
    assert final["dynamics"]["kappa"]["low"] < final["dynamics"]["kappa"]["value"] < final["dynamics"]["kappa"]["high"]

    history = json.loads((folder / "training_history.json").read_text())
    assert [len(history[stage]) for stage in STAGES] == [config.stage(stage).epochs for stage in STAGES]
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    assert len({row["video"] for row in rows}) == final["dynamics"]["videos"]
    assert "not a diagnosis" in (folder / "report.html").read_text()
    for name in ("training_curves.png", "stage_losses.png", "confusion_dynamics.png", "model/README.md"):
        assert (folder / name).stat().st_size > 500

    record = json.loads((folder / "run.json").read_text())
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for stage, run_id in record["stage_runs"].items():
        nested = client.get_run(run_id)
        assert nested.data.tags["mlflow.parentRunId"] == record["mlflow_run_id"]
        assert len(client.get_metric_history(run_id, "val_loss")) == config.stage(stage).epochs  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def undisturbed(sequences: Path, out: Path, ray_cluster: None) -> dict[str, Any]:
    run(small(sequences, out, "undisturbed"))
    return weights(out / "undisturbed")


def test_a_killed_worker_and_single_stages_change_nothing(
    undisturbed: dict[str, Any], sequences: Path, out: Path
) -> None:
    """The first two stages in a run of their own, the others after; a worker dies in the middle of stage 2b."""
    config = small(sequences, out, "disturbed")
    run(config.model_copy(update={"stages": ["1", "2a"]}))
    assert finished(str(out / "disturbed")) == ["1", "2a"]

    killed: list[int] = []
    watcher = threading.Thread(target=kill_in_stage_2b, args=(out / "disturbed", killed))
    watcher.start()
    run(config)
    watcher.join()
    assert killed, "the run ended before a worker could be killed"
    assert finished(str(out / "disturbed")) == list(STAGES)
    again = weights(out / "disturbed")
    assert all((undisturbed[name] == again[name]).all() for name in undisturbed)


def kill_in_stage_2b(root: Path, killed: list[int]) -> None:
    """Kill -9 the training worker once stage 2b has a checkpoint."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        states = [json.loads(file.read_text()) for file in root.glob("checkpoint_*/trainer_state.json")]
        if any(state["stage"] == "2b" for state in states):
            ours = psutil.Process().children(recursive=True)
            worker = next(p.pid for p in ours if "ray::RayTrainWorker" in str(p.cmdline()))
            killed.append(worker)
            os.kill(worker, signal.SIGKILL)
            return
        time.sleep(0.02)


def test_two_workers_two_folds_and_the_ordinal_loss(sequences: Path, out: Path) -> None:
    """And a stage whose rate wrecks the network: it leaves the weights of the stage before."""
    config = small(sequences, out, "folds", workers=2, folds=2, batch_size=4, loss="ordinal", stages=["1", "3"])
    run(config.model_copy(update={"stage_3": config.stage_3.model_copy(update={"lr": 1000.0})}))
    metrics = json.loads((out / "folds" / "metrics.json").read_text())
    assert metrics["part"] == "cross-validation"
    assert metrics["final"]["dynamics"]["rows"] == 40
    assert metrics["final"]["dynamics"]["videos"] == 10
    assert list(metrics["stages"]) == ["1", "3"]
    for fold in ("folds-fold-1", "folds-fold-2"):
        before, after = (load_file(out / fold / "stages" / stage / "model.safetensors") for stage in ("1", "3"))
        assert all((before[name] == after[name]).all() for name in before)
        assert (out / fold / "stage_losses.png").exists()


def test_changed_data_is_refused(
    undisturbed: dict[str, Any], sequences: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = sequences / "smile" / "01_001" / "expression_g_column.json"
    before = label.read_text()
    label.write_text(json.dumps({"dynamics": 5, "synkinesis": 3}))
    options = ["--config", "small-cpu", "--data", str(sequences), "--out-dir", str(out), "--batch-size", "8"]
    try:
        assert main(["dynamics", *options, "--name", "undisturbed"]) == 2
        assert "exists with other options" in capsys.readouterr().err
        with pytest.raises(Exception, match="has changed since it began"):
            run(small(sequences, out, "undisturbed"))
    finally:
        label.write_text(before)
