"""Everything on S3: prepared, trained, killed, resumed on another machine, evaluated, tuned, predicted and served."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster.ports import free_port
from tests.fixtures.object_store import ObjectStore

ROOT = Path(__file__).parents[1]
EPOCHS = 3
TRAIN = [
    "train", "--data", "s3://bucket/shards", "--name", "first", "--backbone", "test_resnet", "--img-size", "32",
    "--epochs", str(EPOCHS), "--batch-size", "32", "--checkpoint-every", "4", "--device", "cpu",
]  # fmt: skip


SHELL = """
import json, sys
from jobs.__main__ import main
for line in sys.stdin:
    print("\\nended", main(json.loads(line)), flush=True)
"""
"""Runs commands, one a line, in one process: they share its Ray, as those of a notebook do."""


class Machine:
    """Runs commands with an empty home and temporary folder: all that it shares with another is the object store."""

    def __init__(self, folder: Path, store: ObjectStore) -> None:
        folder.mkdir()
        self.folder = folder
        self.scratch = tempfile.mkdtemp(prefix="fer-")  # the paths of Ray's sockets in it must be short
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "FER_", "XDG_"))},
            **store.environment, "HOME": str(folder), "TMPDIR": self.scratch, "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
        }  # fmt: skip
        database = f"sqlite:///{folder.parent / 'mlflow.db'}"  # stands for an MLflow server
        self.storage = ["--storage", "s3://bucket/runs", "--tracking-uri", database]

        self.shell: subprocess.Popen[str] | None = None

    def close(self) -> None:
        if self.shell:
            self.shell.communicate(timeout=180)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in a process of its own."""
        command = [sys.executable, "-m", "jobs", *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, text=True)

    def run(self, *arguments: str) -> str:
        """Run a command that must succeed; its output."""
        if self.shell is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            command = [sys.executable, "-c", SHELL]
            self.shell = subprocess.Popen(command, cwd=self.folder, env=self.environment, text=True, **pipes)  # type: ignore[call-overload]
        started = time.monotonic()
        self.shell.stdin.write(json.dumps(arguments) + "\n")
        self.shell.stdin.flush()
        output = ""
        for line in self.shell.stdout:
            if line.startswith("ended"):
                break
            output += line
        print(f"fer {arguments[0]}: {time.monotonic() - started:.1f} s", flush=True)
        assert line == "ended 0\n", output
        return output


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kill a command and everything that it started, as the end of a machine does."""
    doomed = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for each in doomed:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGKILL)
    process.wait()


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the command has ended"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


@contextmanager
def serving(machine: Machine, model: str) -> Iterator[str]:
    """A server; its URL."""
    port = free_port()
    arguments = ["--model", model, "--port", str(port), "--min-replicas", "1", "--detector", "none", "--device", "cpu"]
    process = machine.start("serve", *arguments, *machine.storage, "--apps", "classifier")
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{url}/healthz").status_code == 200
        return False

    try:
        wait_for(answers, process)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(180)
        finally:
            if process.poll() is None:
                kill_all(process)


@pytest.fixture
def machines(s3: ObjectStore, tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    first, second = Machine(tmp_path / "first", s3), Machine(tmp_path / "second", s3)
    yield first, second
    first.close()
    second.close()


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(1100)
def test_everything_on_s3(s3: ObjectStore, tmp_path: Path, machines: tuple[Machine, Machine]) -> None:
    from fer.data.synthetic import write_faces
    from fer.storage import upload_folder

    files = s3.folder
    write_faces(tmp_path / "faces/train", per_class=24, size=224, seed=0)
    write_faces(tmp_path / "faces/test", per_class=4, size=224, seed=1)
    upload_folder(tmp_path / "faces", "s3://bucket/faces")
    first, second = machines

    first.run("prepare", "--data", "s3://bucket/faces", "--out", "s3://bucket/shards")
    sizes = {split: sum(file.stat().st_size for file in files.glob(f"shards/split={split}/*")) for split in
             ("train", "val", "test")}  # fmt: skip

    training = first.start(*TRAIN, *first.storage)
    wait_for(lambda: any(files.glob("runs/first/checkpoint_*/trainer_state.json")), training)
    kill_all(training)
    assert not (files / "runs/first/model").exists()

    before = s3.sent(".parquet")
    output = second.run(*TRAIN, *second.storage)
    history = json.loads((files / "runs/first/history.json").read_text())
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert "s3://bucket/runs/first/model" in output
    fetched = s3.sent(".parquet") - before
    print(f"{fetched:,} bytes of shards in at most {EPOCHS} epochs of {sizes['train'] + sizes['val']:,} bytes")
    assert fetched <= 1.05 * EPOCHS * (sizes["train"] + sizes["val"])

    before = s3.sent(".parquet")
    second.run("evaluate", "first", "--data", "s3://bucket/shards", "--device", "cpu", *second.storage)
    metrics = json.loads((files / "runs/first/evaluation-shards-test/metrics.json").read_text())
    assert metrics["coverage"]["rows"] == 28
    assert s3.sent(".parquet") - before <= 1.05 * sizes["test"]

    options = {"epochs": 1, "backbone": "narrow", "img_size": 40, "batch_size": 32, "device": "cpu", "threads": 1}
    small = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    sweep = ["--space", "classifier_cpu", "--data", "s3://bucket/shards", "--name", "sweep", "--num-trials", "2"]
    second.run("tune", *sweep, *small, *second.storage)
    assert (files / "runs/sweep/report.html").is_file()
    assert len(list(files.glob("runs/sweep/trials/*/checkpoint_*/saved"))) == 2

    images = "s3://bucket/faces/test/surprise"
    rows = "s3://bucket/predictions.jsonl"
    second.run("predict", images, "--model", "first", "--detector", "none", "--out", rows, *second.storage)
    predictions = [json.loads(line) for line in (files / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == 4
    assert all(row["path"].startswith(images) and row["label"] for row in predictions)

    image = next((tmp_path / "faces/test/surprise").glob("*.png"))
    with serving(second, "s3://bucket/runs/first") as url:
        answer = httpx.post(f"{url}/v1/predict", files={"files": image.read_bytes()}, timeout=60).json()
    assert answer["images"][0]["faces"][0]["label"]
