"""Submitting jobs: what is sent with them, and a real cluster that runs, lists, stops and resumes them."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from ray.job_submission import JobDetails

from cluster.inspection import find_progress, gpus_of
from cluster.ports import free_port
from cluster.submission import MIB, SubmitOptions, check_size, environment_variables, is_lost, runtime_env
from fer.errors import UserError
from jobs.jobs import duration
from jobs.submit import check_job

ROOT = Path(__file__).parents[2]


def test_a_job_gets_the_variables_of_its_libraries_and_those_that_are_named() -> None:
    own = {"AWS_SECRET_ACCESS_KEY": "s", "FER_TRAIN_LR": "1", "PATH": "/bin", "MINE": "m", "XAWS_X": "no"}
    sent = environment_variables(["MINE", "OTHER=a=b"], own)
    assert sent == {"AWS_SECRET_ACCESS_KEY": "s", "FER_TRAIN_LR": "1", "MINE": "m", "OTHER": "a=b"}
    with pytest.raises(UserError, match="--env MISSING=VALUE"):
        environment_variables(["MISSING"], own)


def test_a_job_whose_node_has_ended_is_lost() -> None:
    def job(status: str, node: str | None) -> Any:
        return JobDetails(type="SUBMISSION", entrypoint="fer train", status=status, driver_node_id=node)

    assert is_lost(job("RUNNING", "old"), {"new"})
    assert not is_lost(job("RUNNING", "new"), {"new"})
    assert not is_lost(job("PENDING", None), {"new"})  # it has no driver yet
    assert not is_lost(job("SUCCEEDED", "old"), {"new"})


def test_ignored_files_do_not_count_and_a_folder_that_is_too_large_names_its_largest_entries(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("data/\n")
    for name, size in (("data/all.bin", 3 * MIB), ("models/big.bin", 2 * MIB), ("code.py", 10), (".git/x", 3 * MIB)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    check_size(tmp_path, 3)
    with pytest.raises(UserError, match=r"has 2 MiB, more than --max-code-mib 1; the largest: models \(2 MiB\)"):
        check_size(tmp_path, 1)


def test_a_job_runs_from_an_image_or_from_a_folder() -> None:
    assert runtime_env(SubmitOptions(image="ferry:gpu"))["image_uri"] == "ferry:gpu"
    with pytest.raises(UserError, match="no such folder"):
        runtime_env(SubmitOptions(code="nonesuch"))


def test_a_job_without_a_name_gets_one_so_that_it_can_be_resumed() -> None:
    name, arguments = check_job("train", ["--data", "faces"])
    assert arguments == ["--data", "faces", "--name", name]
    assert re.fullmatch(r"train-\d{8}-\d{6}", name)
    assert check_job("train", ["--data", "faces", "--name", "mine"]) == ("mine", ["--data", "faces", "--name", "mine"])
    assert "--name" not in check_job("evaluate", ["ferry-small", "--data", "faces"])[1]


@pytest.mark.parametrize(
    ("job", "arguments", "reason"),
    [("trian", [], "unknown command"), ("train", ["--lr", "x"], "--lr"), ("ferbench", [], "which command")],
)
def test_a_mistake_in_the_command_is_found_before_anything_is_sent(job: str, arguments: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        check_job(job, arguments)


def test_progress_is_the_last_line_that_says_so() -> None:
    assert find_progress("epoch 1/30  train_loss 1\nepoch 2/30 x\nsaved 7/9 files") == ("epoch 2/30", 2 / 30)
    assert find_progress("step 1,500/3,000  epoch 1.20") == ("step 1,500/3,000", 0.5)
    assert find_progress("nothing yet") == ("", 0.0)
    assert [duration(seconds) for seconds in (12, 190, 7500)] == ["12 s", "3 min 10 s", "2 h 05 min"]


def test_gpus_are_those_of_the_placement_groups_that_exist_or_of_the_largest_one() -> None:
    def group(state: str, gpus: list[int]) -> SimpleNamespace:
        return SimpleNamespace(state=state, bundles=[{"unit_resources": {"GPU": number, "CPU": 1}} for number in gpus])

    assert gpus_of([group("REMOVED", [8]), group("CREATED", [1, 1]), group("CREATED", [1])]) == 3
    assert gpus_of([group("REMOVED", [1, 1]), group("REMOVED", [1])]) == 2
    assert gpus_of([]) == 0


# A real cluster, with a home of its own.

Fer = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def address() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def fer(home: Path, address: str) -> Iterator[Fer]:
    """Runs commands, with the cluster's address; the cluster ends with the module."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "FER_"))}
    environment |= {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "PYTHONPATH": str(ROOT)}
    environment |= {"RAY_API_SERVER_ADDRESS": address, "COLUMNS": "200", "FER_EVALUATE_DATA": "data-of-the-environment"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jobs", *words]
        return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)

    ports = ["--port", str(free_port()), "--dashboard-port", address.rpartition(":")[2]]
    assert "no Ray cluster answers" in run("jobs", "list").stderr
    started = run("cluster", "start", "--cpus", "3", *ports)
    assert started.returncode == 0, started.stderr
    yield run
    assert run("cluster", "stop").stdout == "Stopped.\n"
    with pytest.raises(OSError, match="refused"):
        urlopen(address, timeout=5)


@pytest.mark.slow
def test_the_token_is_the_users_alone_and_needed(fer: Fer, home: Path, address: str) -> None:
    token = home / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"{address}/api/jobs/", timeout=60)
    assert "runs already" in fer("cluster", "start").stderr
    assert "(head)" in fer("cluster", "status").stdout


@pytest.mark.slow
def test_a_job_returns_its_log_and_its_exit_code(fer: Fer, start_nodes: Callable[..., Any]) -> None:
    with start_nodes():  # of two clusters on a machine, the job runs on its own, not on the last one started
        failed = fer("submit", "evaluate", "--", "ferry-small")
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "data-of-the-environment" in failed.stdout
    done = fer("submit", "fetch", "--", "--help")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "usage: fer fetch" in done.stdout


@pytest.mark.faults
@pytest.mark.slow
def test_a_stopped_job_is_resumed_under_its_name(fer: Fer, home: Path) -> None:
    from fer.data.synthetic import write_faces

    write_faces(home / "faces", per_class=20, size=48)
    options = ["--data", "faces", "--backbone", "test_resnet", "--img-size", "32", "--epochs", "900", "--name", "long"]
    options += ["--storage", f"{home}-runs"]  # the job's own folder is another one if the code has changed
    submitted = fer("submit", "train", "--no-wait", "--", *options)
    assert submitted.returncode == 0, submitted.stderr
    deadline = time.monotonic() + 240
    listed = ""
    while not re.search(r"epoch (?!1/)", listed) and time.monotonic() < deadline:  # the first one has been saved
        time.sleep(2)
        listed = fer("jobs", "list", "--price-per-hour", "2").stdout
    assert re.search(r"long .* train .* running .* epoch \d+/900", listed), listed
    assert "still runs" in fer("jobs", "resume", "long").stderr
    assert "checkpoints stay" in fer("jobs", "stop", "long").stdout
    assert "stopped" in fer("jobs", "logs", "long").stdout
    assert fer("jobs", "resume", "long", "--no-wait").returncode == 0
    epochs: list[str] = []
    deadline = time.monotonic() + 240
    while not epochs and time.monotonic() < deadline:
        time.sleep(2)
        epochs = re.findall(r"epoch (\d+)/900", fer("jobs", "logs", "long-2", "--no-follow").stdout)
    assert epochs, "it logged no epoch"
    assert int(epochs[0]) > 1
    fer("jobs", "stop", "long-2")
