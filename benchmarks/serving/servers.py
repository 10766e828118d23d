"""The servers: Ferry, a plain FastAPI route, BentoML and LitServe."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import psutil

from cluster.ports import free_port

HERE = Path(__file__).parents[2]
START_SECONDS = 120


class Server(NamedTuple):
    """A server that is started in a session of its own."""

    name: str
    command: list[str]
    port: int
    model: Path
    ready: str
    """Path that answers 200 when the model is loaded."""

    @contextmanager
    def running(self) -> Iterator[tuple[str, psutil.Process]]:
        """The URL that takes requests, once the server answers, and its process."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"PYTHONPATH": str(HERE), "MODEL": str(self.model)}
        process = subprocess.Popen(
            self.command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        started: list[psutil.Process] = []
        try:
            wait_for(self.port, self.ready, process)
            yield f"http://127.0.0.1:{self.port}/v1/predict", psutil.Process(process.pid)
        finally:
            with suppress(psutil.NoSuchProcess):
                started = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            try:
                process.wait(30)
            finally:
                for each in started:  # BentoML's workers leave its process group
                    with suppress(psutil.Error):
                        each.kill()


def memory(process: psutil.Process) -> float:
    """Memory of a process and those that it has started, in GB; what they share counts once."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            total += each.memory_full_info().pss
    return total / 1e9


def ferry(model: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "jobs", "serve", "--model", str(model), "--detector", "none", "--port", str(port)]
    return Server("Ferry", command, port, model, "/healthz")


def peers(model: Path, python: str) -> list[Server]:
    """Each with one process for the model, which is what they start by default."""
    fastapi, bentoml, litserve = free_port(), free_port(), free_port()
    apps = "benchmarks.serving"
    return [
        Server(
            "FastAPI", [python, "-m", "uvicorn", f"{apps}.fastapi_app:app", "--port", str(fastapi)],
            fastapi, model, "/docs",
        ),
        Server(
            "BentoML", [python, "-m", "bentoml", "serve", f"{apps}.bentoml_app:Face", "--port", str(bentoml)],
            bentoml, model, "/healthz",
        ),
        Server("LitServe", [python, "-m", f"{apps}.litserve_app", str(litserve)], litserve, model, "/health"),
    ]  # fmt: skip


def wait_for(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
            return
        time.sleep(0.5)
    raise TimeoutError(f"nothing listens on port {port}")
