"""`fer grpo` on a real Ray with DeepSpeed and vLLM: two trainers and one engine, undisturbed, and killed everywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from fer.data.manifest import ShardedDataset
from fer.grpo.options import GrpoConfig
from jobs import grpo as job

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

COMMON = {
    "train": ["vision", "projector", "language"],
    "precision": "fp32",
    "device": "cpu",
    "workers": 2,
    "prompts": 4,
    "group_size": 4,
    "batch_size": 4,
    "lr": 1e-3,
    "image_size": 28,
    "max_prompt_tokens": 160,
    "max_completion_tokens": 32,
    "grad_checkpointing": False,
}


@pytest.fixture(scope="module")
def undisturbed(
    question_shards: ShardedDataset, formed_model: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> Path:
    """A run of ZeRO-3, DAPO's loss and a reference; its folder."""
    out = tmp_path_factory.mktemp("grpo")
    config = GrpoConfig(
        data=question_shards.root,
        model=str(formed_model),
        out_dir=str(out),
        name="undisturbed",
        deepspeed="zero3",
        loss="dapo",
        beta=0.04,
        extra_rounds=1,
        check_sync_every=2,
        sync_tolerance=1e-3,
        sample_every=4,
        **COMMON,  # type: ignore[arg-type]
    )
    job.main(config)
    return out / "undisturbed"


def metrics(run: Path) -> dict[str, list[float]]:
    """Every metric of a run, in the order of its steps."""
    record = json.loads((run / "run.json").read_text())
    client = MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    names = client.get_run(record["mlflow_run_id"]).data.metrics
    return {name: [point.value for point in client.get_metric_history(record["mlflow_run_id"], name)] for name in names}


def test_every_step_is_logged(undisturbed: Path, question_shards: ShardedDataset) -> None:
    logged = metrics(undisturbed)
    history = json.loads((undisturbed / "history.json").read_text())
    steps = len(history)
    batches = question_shards.split("train").rows // 4
    assert [entry["step"] for entry in history] == list(range(1, steps + 1))
    assert batches / 2 <= steps <= batches
    for name in ("reward", "reward_std", "reward_format", "reward_accuracy", "all_equal", "length", "kl", "clip_share"):
        assert len(logged[name]) == steps, name
    for phase in ("wait", "reward", "update", "sync", "check"):
        assert len(logged[f"seconds_{phase}"]) == steps
    assert max(logged["kl"]) > 0, "the policy leaves its reference"
    assert min(logged["entropy"]) > 0
    assert max(logged["staleness"]) == 0, "on-policy"
    assert max(logged["mismatch"]) < 1e-3, "engine and trainer compute the same probabilities"
    assert max(logged["generated_tokens_per_second"]) > 0


def test_the_engine_had_the_weights_at_each_check(undisturbed: Path) -> None:
    differences = metrics(undisturbed)["sync_difference"]
    assert len(differences) >= 4
    assert max(differences) < 1e-4


def test_samples_curves_and_model_are_left(undisturbed: Path, formed_model: Path) -> None:
    [page, *_] = sorted(undisturbed.parent.rglob("samples/step-*.html"))
    assert "data:image/jpeg" in page.read_text()
    assert (undisturbed / "curves.png").stat().st_size > 10_000
    before, after = (load_file(folder / "model.safetensors") for folder in (formed_model, undisturbed / "model"))
    assert before.keys() == after.keys()
    assert any((before[name] - after[name]).abs().max() > 1e-4 for name in before)
    assert "reward_format" in (undisturbed / "model/README.md").read_text()


def children(driver: int, name: str = "") -> list[psutil.Process]:
    """The driver's processes whose command line has a name."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


def wait_for(what: Callable[[], bool], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)


def steps_saved(run: Path) -> int:
    """Step of the newest whole checkpoint."""
    found = [0]
    for file in run.glob("checkpoint_*/trainer_state.json"):
        with suppress(ValueError):  # it is being written
            found.append(json.loads(file.read_text())["global_step"])
    return max(found)


def test_engine_trainer_and_driver_are_killed(
    question_shards: ShardedDataset, formed_model: Path, tmp_path: Path
) -> None:
    """Adapters, one batch ahead. Each of the three is killed once; every batch of questions counts once in the end."""
    run, log = tmp_path / "runs/killed", tmp_path / "log"
    settings = COMMON | {
        "data": question_shards.root,
        "model": str(formed_model),
        "out_dir": str(tmp_path / "runs"),
        "name": "killed",
        "lora": "lora",
        "beta": 0.04,
        "async_depth": 1,
        "checkpoint_every": 2,
        "check_sync_every": 1,
        "sync_tolerance": 1e-3,
    }
    (tmp_path / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    command = [sys.executable, "-m", "jobs.grpo", "--config", str(tmp_path / "config.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=log.open("ab"), stderr=subprocess.STDOUT, env=environment)

    first = start()
    wait_for(lambda: steps_saved(run) >= 2, 240, log)
    [engine] = children(first.pid, "ray::RolloutEngine")
    engine.send_signal(signal.SIGKILL)
    at = steps_saved(run)
    wait_for(lambda: steps_saved(run) >= at + 4, 240, log)
    assert "an engine died; after" in log.read_text()
    children(first.pid, "ray::RayTrainWorker")[0].send_signal(signal.SIGKILL)
    at = steps_saved(run)
    wait_for(lambda: steps_saved(run) >= at + 4, 240, log)
    for process in [*children(first.pid), psutil.Process(first.pid)]:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    first.wait()
    saved = steps_saved(run)
    batches = question_shards.split("train").rows // 4
    assert 0 < saved < batches, "it was killed on the way"

    second = start()
    assert second.wait(300) == 0, log.read_text()[-3000:]
    history = json.loads((run / "history.json").read_text())
    assert [entry["step"] for entry in history] == list(range(1, batches + 1))
    assert {entry["staleness"] for entry in history[1:saved]} >= {1.0}, "one batch ahead"
    assert max(metrics(run)["sync_difference"]) < 1e-4
    assert (run / "model/adapter_model.safetensors").is_file()
