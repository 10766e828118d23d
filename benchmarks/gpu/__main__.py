"""The first hour on a machine with GPUs: every part of Ferry that runs on them, one after the other.

    make gpu
    python -m benchmarks.gpu --parts environment,sft-3b,recovery --out gpu-report

Nothing is downloaded: faces are rendered, and models made from configs with random weights. Each part runs in a process
of its own, for at most ``--minutes``, and a part that fails does not stop the others. Figures, failures and the path of
each part's log are in ``report.json`` and ``report.md``. Without a GPU the same parts run with tiny models on CPUs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field, field_validator

from benchmarks.gpu.machine import find_machine
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.report import Outcome, write_report
from fer.options import Options, parse


class GpuBenchmark(Options):
    """Run the parts of Ferry that use GPUs, and write a table of what worked and how fast."""

    parts: list[str] = Field([*PARTS], min_length=1, description=f"Parts to run, in order: {', '.join(PARTS)}")
    out: str = Field("gpu-report", description="Folder for the report and the logs")
    minutes: float = Field(10, gt=0, description="Longest time of a part; it is ended then")

    @field_validator("parts")
    @classmethod
    def _known(cls, parts: list[str]) -> list[str]:
        if unknown := [part for part in parts if part not in PARTS]:
            raise ValueError(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
        return parts


def main(config: GpuBenchmark) -> bool:
    """Run the parts; whether all of them succeeded."""
    out = Path(config.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    machine = find_machine()
    outcomes: dict[str, Outcome] = {}
    for name in config.parts:
        print(f"{name}: {PARTS[name].what} ...", flush=True)
        outcomes[name] = run_part(name, out, 60 * config.minutes)
        write_report(outcomes, machine, out)
        print(f"{name}: {outcomes[name].summary()}", flush=True)
    print(f"Report: {out / 'report.md'}")
    return all(outcome.error is None for outcome in outcomes.values())


def run_part(name: str, out: Path, seconds: float) -> Outcome:
    """Run a part in a process of its own, which is killed with all that it has started after so many seconds."""
    log, figures = out / f"{name}.log", out / f"{name}.json"
    figures.unlink(missing_ok=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ferry-gpu-") as scratch, log.open("wb") as file:
        command = [sys.executable, "-m", "benchmarks.gpu.parts", name, scratch, str(figures)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        process = psutil.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            code = process.wait(seconds)
            error = None if code == 0 else f"it ended with code {code}"
        except psutil.TimeoutExpired:
            error = f"not finished within {seconds:.0f} s"
        finally:
            kill(process)
    found: dict[str, Any] = json.loads(figures.read_text()) if figures.exists() else {}
    return Outcome(found, time.perf_counter() - started, error, log)


def kill(process: psutil.Popen) -> None:
    """End a process and all that it has started."""
    if process.is_running():
        for each in [*process.children(recursive=True), process]:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue  # it has just ended
        process.wait()


if __name__ == "__main__":
    sys.exit(0 if main(parse(GpuBenchmark, sys.argv[1:], "benchmark")) else 1)
