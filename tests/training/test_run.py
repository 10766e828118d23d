"""The run folder: what it records, and when it is not resumed."""

import json
import os
from pathlib import Path

import pytest

from fer.classifier.options import TrainConfig
from fer.errors import UserError
from fer.training.options import CheckpointOptions
from fer.training.run import RunFolder
from fer.vlm.options import SftConfig


def test_config_versions_and_commit_are_saved(tmp_path: Path) -> None:
    run = RunFolder(CheckpointOptions(storage=str(tmp_path), name="a", seed=3), "train", "x")
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["config"]["seed"] == 3
    assert {"python", "torch", "ray", "timm", "ferry-fer"} <= set(record["versions"])
    assert "commit" in record
    assert not run.resumed


def test_the_same_name_resumes_the_run(tmp_path: Path) -> None:
    RunFolder(CheckpointOptions(storage=str(tmp_path), name="a"), "train", "x").update(mlflow_run_id="7")
    again = RunFolder(CheckpointOptions(storage=str(tmp_path), name="a", max_failures=9), "train", "x")
    assert again.resumed
    assert again.record["mlflow_run_id"] == "7"


def test_other_options_under_the_same_name_are_a_user_error(tmp_path: Path) -> None:
    RunFolder(CheckpointOptions(storage=str(tmp_path), name="a", seed=1), "train", "x")
    with pytest.raises(UserError, match=r"--seed 1 is now 2.*choose another --name"):
        RunFolder(CheckpointOptions(storage=str(tmp_path), name="a", seed=2), "train", "x")


def test_a_kill_while_the_record_is_written_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(CheckpointOptions(storage=str(tmp_path), name="a"), "train", "x")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            run.update(mlflow_run_id="7")
    again = RunFolder(CheckpointOptions(storage=str(tmp_path), name="a"), "train", "x")
    assert again.resumed
    assert "mlflow_run_id" not in again.record


def test_an_incomplete_record_is_a_user_error(tmp_path: Path) -> None:
    RunFolder(CheckpointOptions(storage=str(tmp_path), name="a"), "train", "x")
    (tmp_path / "a/run.json").write_text('{"job": "tr')
    with pytest.raises(UserError, match=r"run\.json is not complete: choose another --name, or remove"):
        RunFolder(CheckpointOptions(storage=str(tmp_path), name="a"), "train", "x")


def test_a_classifier_is_resumed_with_another_number_of_workers_and_a_sharded_model_is_not(tmp_path: Path) -> None:
    RunFolder(TrainConfig(data="d", storage=str(tmp_path), name="a", workers=2), "train", "x")
    assert RunFolder(TrainConfig(data="d", storage=str(tmp_path), name="a", workers=1), "train", "x").resumed
    RunFolder(SftConfig(data="d", model="m", storage=str(tmp_path), name="b", workers=2), "sft", "x")
    with pytest.raises(UserError, match=r"--workers 2 is now 1"):
        RunFolder(SftConfig(data="d", model="m", storage=str(tmp_path), name="b", workers=1), "sft", "x")
