"""A training whose MLflow server is killed in mid-run, and comes back: training goes on, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fer.classifier.options import TrainConfig
from jobs import train
from tests.fixtures.mlflow_server import MlflowServer

EPOCHS = 8


def finished_epochs(run: Path) -> int:
    epochs = [0]
    for file in run.glob("checkpoint_*/trainer_state.json"):
        with suppress(OSError, ValueError):  # being written or deleted
            epochs.append(json.loads(file.read_text())["epoch"])
    return max(epochs)


def disturb(server: MlflowServer, run: Path, find: Callable[[str], list[int]], seen: dict[str, int]) -> None:
    """Kill the server after an epoch, and start it again two epochs later, while the worker waits for that."""

    def wait_for(epochs: int) -> None:
        while finished_epochs(run) < epochs:
            time.sleep(0.02)

    wait_for(1)
    (worker,) = find("ray::RayTrainWorker")
    server.kill()
    seen["killed"] = finished_epochs(run)
    wait_for(seen["killed"] + 2)
    os.kill(worker, signal.SIGSTOP)
    seen["back"] = finished_epochs(run)
    server.start()
    os.kill(worker, signal.SIGCONT)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_training_goes_on_without_mlflow_and_loses_no_metric(
    running_server: MlflowServer,
    small_shards: Path,
    tmp_path: Path,
    own_processes: Callable[[str], list[int]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = TrainConfig(
        data=str(small_shards),
        storage=str(tmp_path),
        name="run",
        tracking_uri=running_server.uri,
        register_as="sturdy",
        backbone="test_resnet",
        img_size=40,
        batch_size=16,
        epochs=EPOCHS,
        threads=1,
    )
    seen: dict[str, int] = {}
    arguments = (running_server, tmp_path / "run", own_processes, seen)
    thread = threading.Thread(target=disturb, args=arguments, daemon=True)
    thread.start()
    train.main(config)
    thread.join()
    assert seen["killed"] + 2 <= seen["back"] < EPOCHS, seen
    assert "fer mlflow sync" not in capfd.readouterr().out, "all was sent before the end"
    assert not (tmp_path / "run" / "mlflow").exists()
    check_run(running_server.uri, tmp_path / "run")


def check_run(uri: str, folder: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    run_id = json.loads((folder / "run.json").read_text())["mlflow_run_id"]
    history: list[dict[str, Any]] = json.loads((folder / "history.json").read_text())
    for name in set(history[0]) - {"epoch"}:
        points = client.get_metric_history(run_id, name)
        assert len(points) == EPOCHS, name
        assert {each.step: each.value for each in points} == {entry["epoch"]: entry[name] for entry in history}, name
    steps = Counter(each.step for each in client.get_metric_history(run_id, "step_loss"))
    assert steps == Counter(range(len(steps)))
    assert len(steps) % EPOCHS == 0
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.tags["data_hash"]
    assert client.get_model_version_by_alias("sturdy", "challenger").run_id == run_id
    assert {each.path for each in client.list_artifacts(run_id)} == {"model", "history.json"}
