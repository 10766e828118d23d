"""Processes that tests start: each ends with its test, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Any

GRACE = 60
"""Seconds that a process has to stop."""


@contextmanager
def running(
    command: Sequence[str | Path], *, stop: int = signal.SIGKILL, limit: float = 600, **options: Any
) -> Iterator[subprocess.Popen[Any]]:
    """A process in a ``with`` block, which gets the signal ``stop`` at the end, and is killed if that does not end it.

    It is also killed after ``limit`` seconds: a test that reads its output then fails, and does not wait for ever.
    With ``start_new_session``, the processes that it has started are killed with it. Other options are Popen's.
    """
    process = subprocess.Popen(command, **options)

    def kill() -> None:
        with suppress(ProcessLookupError):
            if options.get("start_new_session"):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()

    timer = Timer(limit, kill)
    timer.start()
    try:
        yield process
        process.send_signal(stop)
        process.wait(GRACE)
    finally:
        timer.cancel()
        kill()
        process.wait(GRACE)
        for stream in (process.stdin, process.stdout, process.stderr):
            with suppress(BrokenPipeError):
                if stream:
                    stream.close()


def environment(**variables: str) -> dict[str, str]:
    """The environment without what connects a process to the tests' own Ray, but for its workers' priority."""
    kept = (name for name in os.environ if not name.startswith("RAY_") or name == "RAY_worker_niceness")
    return {name: os.environ[name] for name in kept} | variables
