"""`fer tune` end to end: killed and resumed, with several workers per trial, and population based training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fer.errors import UserError
from fer.options import parse
from jobs.tune import Config, main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).parents[2]
EPOCHS = 4
SMALL = {"img_size": 40, "backbone": "narrow", "epochs": EPOCHS, "decode_threads": 1, "threads": 1}


@pytest.fixture(scope="module")
def shards(face_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Too few faces to fill a batch of 128."""
    from fer.data.options import PrepareOptions
    from fer.data.prepare import prepare

    out = tmp_path_factory.mktemp("tune") / "shards"
    prepare(PrepareOptions(data=str(face_folder), out=str(out), val_split=0.2))
    return out


def trials(sweep: Path) -> dict[str, dict[str, Any]]:
    files = sorted((sweep / "trials").glob("*/trial.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def run(shards: Path, out: Path, **options: Any) -> dict[str, dict[str, Any]]:
    fixed = SMALL | options.pop("set", {})
    settings = {"space": "classifier_cpu", "max_concurrent": 1, "name": "c", **options}
    main(Config(data=str(shards), storage=str(out), set=fixed, **settings))
    return trials(out / "c")


@pytest.mark.faults
def test_a_killed_sweep_keeps_ended_trials_and_resumes_the_rest(shards: Path, tmp_path: Path) -> None:
    import ray
    from mlflow.tracking import MlflowClient

    (tmp_path / "points.yaml").write_text(
        "- {batch_size: 128}\n- {batch_size: 32}\n- {batch_size: 64, photometric: 0.5}\n"
    )
    arguments = ["--space", "classifier_cpu", "--data", str(shards), "--name", "c", "--storage", str(tmp_path)]
    arguments += ["--points", str(tmp_path / "points.yaml"), "--num-trials", "4", "--max-concurrent", "1"]
    arguments += ["--search", "random", "--scheduler", "none"]
    arguments += [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "jobs", "tune", *arguments]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": str(ROOT)}

    driver = subprocess.Popen(command, env=environment, cwd=tmp_path)
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        seen = trials(tmp_path / "c")
        if sum(trial["state"] == "finished" for trial in seen.values()) == 1 and any(
            trial["state"] == "running" and len(trial["history"]) >= 2 for trial in seen.values()
        ):
            break
        assert driver.poll() is None, "the sweep ended before it could be killed"
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = trials(tmp_path / "c")
    states = [trial["state"] for trial in before.values()]
    assert sorted(states) == ["failed", "finished", "running"]

    main(parse(Config, arguments, "tune"))
    after = trials(tmp_path / "c")
    assert list(after) == ["000", "001", "002", "003"]
    for number, trial in before.items():
        if trial["state"] != "running":
            assert after[number] == trial
        else:
            assert after[number]["attempts"] == 2
            assert after[number]["history"][: len(trial["history"])] == trial["history"]
    done = [trial for trial in after.values() if trial["state"] == "finished"]
    assert len(done) == 3
    assert all([entry["trial_epoch"] for entry in trial["history"]] == list(range(1, EPOCHS + 1)) for trial in done)
    (failed,) = (trial for trial in after.values() if trial["state"] == "failed")
    assert "do not fill one batch of 128" in failed["error"]

    page = (tmp_path / "c" / "report.html").read_text()
    assert "3 finished, 0 stopped early, 1 failed" in page
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    parent = json.loads((tmp_path / "c" / "run.json").read_text())["mlflow_run_id"]
    nested = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {each.info.run_id: each.info.status for each in nested} == {
        trial["run_id"]: "FAILED" if trial["state"] == "failed" else "FINISHED" for trial in after.values()
    }


def test_a_trial_can_have_workers_of_its_own(shards: Path, tmp_path: Path) -> None:
    fixed = {"workers": 2, "epochs": 2, "batch_size": 32}
    found = run(shards, tmp_path, num_trials=1, second_objective="size", set=fixed)
    assert found["000"]["state"] == "finished"
    assert [entry["trial_epoch"] for entry in found["000"]["history"]] == [1, 2]
    assert found["000"]["history"][0]["size"] == pytest.approx(0.31, abs=0.05)


def test_a_population_exchanges_weights_and_perturbs_rates(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "points.yaml").write_text("- {lr: 0.0001}\n- {lr: 0.0100}\n")
    found = run(
        shards,
        tmp_path,
        search="pbt",
        num_trials=3,
        points=str(tmp_path / "points.yaml"),
        set={"epochs": 2, "batch_size": 32},
    )
    assert {trial["state"] for trial in found.values()} == {"finished"}
    assert len(found) == 3


def test_dynamics_trials_are_compared_at_the_ends_of_stages(tmp_path: Path) -> None:
    from fer.dynamics.synthetic import write_sequences

    write_sequences(tmp_path / "sequences", videos=6, frames=6, seed=0)
    rates = ({"lr_flow": 0.01}, {"lr_flow": 0.0001}, {"lr_flow": 0.00011})
    (tmp_path / "points.yaml").write_text(json.dumps(rates))
    fixed = {f"stage_{stage}.epochs": 2 if stage == "1" else 1 for stage in ("1", "2a", "2b", "3", "4")}
    fixed |= {"flow_width": 8, "batch_size": 16, "pretrained": False, "threads": 1}
    fixed |= {"model_kwargs": {"layers": [1, 1, 1, 1]}, "seed": 0}
    options = {"space": "fusion", "data": str(tmp_path / "sequences"), "storage": str(tmp_path), "name": "c"}
    main(Config(num_trials=4, max_concurrent=1, points=str(tmp_path / "points.yaml"), set=fixed, **options))
    found = trials(tmp_path / "c")
    assert {trial["state"] for trial in found.values()} <= {"finished", "stopped"}
    assert found["000"]["state"] == "finished"
    assert [entry["trial_epoch"] for entry in found["000"]["history"]] == [1, 2, 3, 4, 5, 6]
    assert [entry.get("progress") for entry in found["000"]["history"]] == [None, 1, 2, 3, 4, 5]
    for trial in found.values():
        if trial["state"] == "stopped":
            assert trial["history"][-1]["progress"] == 3, "at the end of stage 2b"


def test_more_concurrent_trials_than_fit_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--max-concurrent 50 can't be scheduled: a trial needs 2 CPUs"):
        run(shards, tmp_path, num_trials=2, max_concurrent=50)
