"""`fer serve` of a registered model, as a process of its own, and what a fault can end of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.serving.servers import memory
from fer.registry import BUNDLED, DEFAULT_MODEL, register
from fer.tracking import TrackingOptions, start_run

HERE = Path(__file__).parents[2]
READY = "Serving at"
START_SECONDS, STOP_SECONDS = 180, 60
REPLICA, PROXY = "ray::ServeReplica:classifier", "/haproxy.cfg"
"""What is in the command line of a replica, and of HAProxy, but not in that of the second HAProxy."""


def registry(folder: Path) -> TrackingOptions:
    """A registry with the bundled model three times: version 1 is the champion, version 3 the challenger."""
    tracking = TrackingOptions(storage=str(folder / "runs"), tracking_uri=f"sqlite:///{folder}/mlflow.db")
    run = start_run(tracking, "soak", "bundled")
    for alias in ("champion", None, "challenger"):
        register(tracking, run.run_id, BUNDLED / DEFAULT_MODEL, "face", alias)
    return tracking


class RegisteredServer:
    """A server that can be started, killed and started again on its port, in a ``with`` block that ends it."""

    def __init__(self, tracking: TrackingOptions, port: int, log: Path, *options: str) -> None:
        self.url, self.port, self.log = f"http://127.0.0.1:{port}", port, log
        self.command = [
            *(sys.executable, "-m", "jobs", "serve", "--model", "models:/face@champion"),
            *("--detector", "none", "--port", str(port), "--storage", tracking.storage),
            *("--tracking-uri", str(tracking.tracking_uri), *options),
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self.killed: list[psutil.Process] = []
        """Processes of a server that was killed."""

    def __enter__(self) -> RegisteredServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> float:
        """Start it; return the seconds until it says that it is ready."""
        started, before = time.monotonic(), self.log.stat().st_size if self.log.exists() else 0
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=environment | {"PYTHONPATH": str(HERE)}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        while READY.encode() not in self.log.read_bytes()[before:]:
            assert self.process.poll() is None, f"the server has ended:\n{self.log.read_text()[before:]}"
            assert time.monotonic() < started + START_SECONDS, "the server does not start"
            time.sleep(0.1)
        return time.monotonic() - started

    def processes(self, name: str = "") -> list[psutil.Process]:
        """The server's processes, Ray's included, whose command line contains ``name``."""
        assert self.process is not None
        found = []
        for each in [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]:
            with suppress(psutil.Error):  # it has just ended
                if name in " ".join(each.cmdline()):
                    found.append(each)
        return found

    def kill(self, name: str) -> None:
        """kill -9 the newest process with ``name``: older HAProxies only finish what they have."""
        max(self.processes(name), key=psutil.Process.create_time).send_signal(signal.SIGKILL)

    def kill_driver(self) -> float:
        """kill -9 the command itself; return the seconds until its port is free."""
        assert self.process is not None
        started, self.killed = time.monotonic(), self.processes()
        self.process.kill()
        self.process.wait()
        while is_taken(self.port):
            assert time.monotonic() < started + START_SECONDS, "the killed server keeps its port"
            time.sleep(0.05)
        return time.monotonic() - started

    def stop(self) -> None:
        """Ctrl-C, for a server that still runs; kill -9 if that does not end it. Raises TimeoutExpired then."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_SECONDS)
            finally:
                self.process.kill()

    def memory(self) -> float:
        """Memory of all processes in GB."""
        assert self.process is not None
        return memory(psutil.Process(self.process.pid))


def is_taken(port: int) -> bool:
    """Whether another server listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
