"""Training on Ray: the five stages recover the rendered scores, and a killed worker does not change the result."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from fer.dynamics.options import STAGES, DynamicsConfig
from fer.dynamics.stage_folders import finished_stages
from fer.dynamics.synthetic import write_sequences
from fer.options import parse
from fer.tracking import start_run
from fer.tuning.trainables.dynamics import DynamicsTrainable
from jobs.__main__ import main
from jobs.commands import RECIPES
from jobs.dynamics import main as run

MakeConfig = Callable[..., DynamicsConfig]
KillWorkerWhen = Callable[[Path, Callable[[dict[str, Any]], bool], list[int]], threading.Thread]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def make_config(sequences: Path, out: Path, tiny_network: dict[str, Any]) -> MakeConfig:
    """Makes the config of a run on the sequences: one epoch per stage, and two for 2b.

    One thread: this process, in which an engine may have run, does not have those of a worker by default.
    """

    def make(name: str, **changes: Any) -> DynamicsConfig:
        stages = {f"stage_{stage}": {"epochs": 2 if stage == "2b" else 1} for stage in STAGES}
        options = {
            "pretrained": False,
            "batch_size": 8,
            "workers": 1,
            "threads": 1,
            "device": "cpu",
            **tiny_network,
            **stages,
        }
        return DynamicsConfig(data=str(sequences), storage=str(out), name=name, **{**options, **changes})

    return make


def test_sixty_videos_five_stages(tmp_path: Path, ray_cluster: None) -> None:
    """With the small recipe. The split is by video, so the validation people are new to the model."""
    write_sequences(tmp_path / "frames", videos=60, frames=12, jitter=0.005)
    argv = ["--config", "small-cpu", "--data", str(tmp_path / "frames"), "--storage", str(tmp_path), "--name", "sixty"]
    config = parse(DynamicsConfig, argv, "dynamics", RECIPES / "dynamics")
    started = time.monotonic()
    run(config)
    print(f"{time.monotonic() - started:.0f} seconds")

    folder = tmp_path / "sixty"
    metrics = json.loads((folder / "metrics.json").read_text())
    stages, final = metrics["stages"], metrics["final"]
    assert list(stages) == list(STAGES)
    # CPUs of other kinds round in other ways, and after five stages the metrics differ by some hundredths.
    assert final["dynamics"]["kappa"]["value"] >= 0.85
    assert final["synkinesis"]["kappa"]["value"] >= 0.6
    loss = {stage: sum(stages[stage][score]["mse"] for score in final) for stage in stages}
    assert loss["4"] < min(loss["1"], loss["2a"]), "the fusion is better than optical flow alone"
    assert loss["4"] < 1.25 * loss["2b"], "and nearly as good as the landmarks, which are exact in rendered faces"
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
def uninterrupted(make_config: MakeConfig, out: Path) -> dict[str, Any]:
    """The final weights of an uninterrupted run, in this process, as a trial of `fer tune` trains."""
    config, job, folder = make_config("uninterrupted"), DynamicsTrainable(), out / "uninterrupted"
    tracking = start_run(config, "test", "uninterrupted")
    loop, settings = job.train_loop(config, job.prepare_data(config), tracking, folder)
    threads = torch.get_num_threads()
    loop(settings | {"report_fn": lambda metrics, checkpoint: None})
    torch.set_num_threads(threads)
    return load_file(folder / "stages" / STAGES[-1] / "model.safetensors")


@pytest.fixture(scope="module")
def interrupted(make_config: MakeConfig, out: Path, kill_worker_when: KillWorkerWhen) -> DynamicsConfig:
    """The first two stages are trained by a first call, the others by a second; a worker is killed in stage 2b."""
    config = make_config("interrupted")
    run(config.model_copy(update={"stages": ["1", "2a"]}))
    assert finished_stages(str(out / "interrupted")) == ["1", "2a"]

    killed: list[int] = []
    watcher = kill_worker_when(out / "interrupted", lambda state: state["stage"] == "2b", killed)
    run(config)
    watcher.join()
    assert killed, "the run ended before a worker could be killed"
    return config


@pytest.mark.faults
def test_a_killed_worker_and_separate_stages_do_not_change_the_weights(
    uninterrupted: dict[str, Any], interrupted: DynamicsConfig, out: Path
) -> None:
    assert finished_stages(str(out / "interrupted")) == list(STAGES)
    resumed = load_file(out / "interrupted" / "model" / "model.safetensors")
    assert uninterrupted.keys() == resumed.keys()
    assert all((uninterrupted[name] == resumed[name]).all() for name in uninterrupted)


def test_two_workers_two_folds_and_the_ordinal_loss(make_config: MakeConfig, out: Path) -> None:
    """And a stage that diverges: it keeps the weights of the previous stage."""
    config = make_config("folds", workers=2, folds=2, batch_size=4, loss="ordinal", stages=["1", "3"])
    run(config.model_copy(update={"stage_3": config.stage_3.model_copy(update={"lr": 1000.0})}))
    metrics = json.loads((out / "folds" / "metrics.json").read_text())
    assert metrics["split"] == "cross-validation"
    assert metrics["final"]["dynamics"]["rows"] == 40
    assert metrics["final"]["dynamics"]["videos"] == 10
    assert list(metrics["stages"]) == ["1", "3"]
    for fold in ("folds-fold-1", "folds-fold-2"):
        before, after = (load_file(out / fold / "stages" / stage / "model.safetensors") for stage in ("1", "3"))
        assert all((before[name] == after[name]).all() for name in before)
        assert (out / fold / "stage_losses.png").exists()


@pytest.mark.faults  # where the run is there already
def test_changed_data_is_refused(
    interrupted: DynamicsConfig, sequences: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = sequences / "smile" / "01_001" / "expression_g_column.json"
    before = label.read_text()
    label.write_text(json.dumps({"dynamics": 5, "synkinesis": 3}))
    options = ["--config", "small-cpu", "--data", str(sequences), "--storage", str(out), "--batch-size", "8"]
    try:
        assert main(["dynamics", *options, "--name", "interrupted"]) == 2
        assert "exists with other options" in capsys.readouterr().err
        with pytest.raises(Exception, match="has changed since it started"):
            run(interrupted)
    finally:
        label.write_text(before)
