"""The workers of a cluster get the credentials of the command that uses it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobs.demo import free_port
from tests.fixtures.object_store import wait_for_port

ROOT = Path(__file__).parents[2]
SECRET = "not-to-be-found-in-any-log"
PROGRAM = """
import os
import ray
from cluster.local import connect

connect(1)
read = ray.remote(lambda: os.environ.get("AWS_SECRET_ACCESS_KEY"))
print("worker:", ray.get(read.remote()))
"""


@pytest.fixture
def cluster() -> Iterator[tuple[str, Path]]:
    """A cluster that knows no credentials: its address, and the folder of its logs."""
    folder = Path(tempfile.mkdtemp(prefix="fer-"))  # the path of a socket in it must be short
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    head = subprocess.Popen(
        [Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=1",
         "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"],
        env={**environment, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_port(port)
        yield f"127.0.0.1:{port}", folder
    finally:
        children = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        head.wait(30)
        psutil.wait_procs(children, 10)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_workers_get_the_credentials_and_logs_do_not(cluster: tuple[str, Path]) -> None:
    address, logs = cluster
    environment = {**os.environ, "RAY_ADDRESS": address, "AWS_SECRET_ACCESS_KEY": SECRET, "PYTHONPATH": str(ROOT)}
    environment["RAY_AUTH_MODE"] = "disabled"
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert f"worker: {SECRET}" in done.stdout, done.stderr
    time.sleep(1)  # logs are written
    files = [file for file in logs.rglob("*") if file.is_file() and file.suffix in (".log", ".out", ".err")]
    assert len(files) > 5
    assert [file.name for file in files if SECRET in file.read_text(errors="replace")] == []
