"""How long `fer train`, `fer evaluate` and `fer tune` take on 301 small faces, where starting is most of the work.

    python -m benchmarks.startup --before CHECKOUT

Each command runs in a process of its own and starts its own Ray, from the first import to the end of the process. With
``--before``, the code of another checkout takes turns with this one. Results are medians over the rounds: seconds until
the command prints the line that ends each phase, and CPU seconds of all processes.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from pydantic import Field

from fer.data.synthetic import write_faces
from fer.options import Options, parse

HERE = Path(__file__).parents[1]
NETWORK = '{"layers":[1,1,1,1],"channels":[32,64,128,256]}'
SAMPLES_PER_SECOND = 4
"""How often the CPU times of all processes are read; those of a process's last quarter of a second are missed."""


class Command(NamedTuple):
    """A command, and for each of its phases the line that is printed at its end."""

    words: str
    """DATA, MODEL and OUT are replaced."""
    phases: dict[str, str]


COMMANDS = {
    "train": Command(
        "train --data DATA --storage OUT --name run --epochs 1 --batch-size 32 --img-size 48 --in-chans 1 "
        f"--backbone resnet18 --model-kwargs {NETWORK}",
        {"prepare, Ray, MLflow": "run run:", "workers, one epoch": r".*epoch 1/1", "export": "Trained 1 epochs"},
    ),
    "evaluate": Command(
        "evaluate MODEL --data DATA --storage OUT --out OUT/evaluation",
        {"everything": "Evaluated"},
    ),
    "tune": Command(
        "tune --space classifier_cpu --data DATA --storage OUT --name sweep --num-trials 2 --set epochs=1 "
        "--set img_size=48 --set batch_size=32",
        {"prepare, Ray, MLflow": "sweep sweep:", "two trials": r"\[2/2\]", "report": "2 trials:"},
    ),
}


class StartupBenchmark(Options):
    """Measure how long commands take on a small data set, from start to end."""

    before: str | None = Field(None, description="Checkout of the code to compare with")
    rounds: int = Field(5, ge=1, description="Rounds, each of which runs every command of every checkout once")
    commands: list[str] = Field(list(COMMANDS), description="Commands to run, as JSON")


class Measurement(NamedTuple):
    phases: dict[str, float]
    """Seconds of each phase; the last is the end of the process."""
    cpu: float
    """CPU seconds of all processes."""


def main(config: StartupBenchmark) -> None:
    checkouts = {"before": Path(config.before).absolute()} if config.before else {}
    checkouts["now"] = HERE
    results: dict[tuple[str, str], list[Measurement]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_faces(root / "faces", per_class=43, size=48)
        for side, checkout in checkouts.items():
            train_model(root, side, checkout)
        for number in range(config.rounds):
            for name in config.commands:
                for side, checkout in checkouts.items():
                    found = run(
                        COMMANDS[name], checkout, root, root / f"{side}-{name}-{number}", root / f"{side}-model"
                    )
                    results.setdefault((name, side), []).append(found)
                    seconds, load = sum(found.phases.values()), os.getloadavg()[0]
                    print(f"{name} {side}: {seconds:.1f} s, {found.cpu:.1f} CPU s (load {load:.1f})", flush=True)
    for (name, side), found in results.items():
        print_medians(f"{name}, {side}", found)


def train_model(root: Path, side: str, checkout: Path) -> None:
    """Train the model that `fer evaluate` of a checkout gets."""
    run(COMMANDS["train"], checkout, root, root / f"{side}-first")
    (root / f"{side}-first" / "run" / "model").rename(root / f"{side}-model")


def run(command: Command, checkout: Path, root: Path, out: Path, model: Path = Path()) -> Measurement:
    """Run a command with the code of ``checkout``; the seconds of its phases and the CPU seconds."""
    places = {"DATA": root / "faces", "MODEL": model, "OUT": out}
    words = [re.sub("^(DATA|MODEL|OUT)", lambda place: str(places[place[0]]), word) for word in command.words.split()]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"PYTHONPATH": str(checkout), "PYTHONUNBUFFERED": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs", *words],
        cwd=checkout, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    cpu: dict[int, float] = {}
    watcher = threading.Thread(target=watch_cpu, args=(psutil.Process(process.pid), cpu))
    watcher.start()
    phases, before, lines = {}, started, []
    waiting = list(command.phases.items())
    assert process.stdout
    for line in process.stdout:
        lines.append(line)
        if waiting and re.match(waiting[0][1], re.sub(r"\x1b\[\d+m", "", line)):
            now = time.perf_counter()
            phases[waiting.pop(0)[0]], before = now - before, now
    code = process.wait()
    phases["end of the process"] = time.perf_counter() - before
    watcher.join()
    assert code == 0, "".join(lines)
    assert not waiting, "".join(lines)
    return Measurement(phases, sum(cpu.values()))


def watch_cpu(process: psutil.Process, cpu: dict[int, float]) -> None:
    """Note the CPU seconds of a process and its descendants until it ends."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):  # it has just ended
                times = each.cpu_times()
                cpu[each.pid] = times.user + times.system
        time.sleep(1 / SAMPLES_PER_SECOND)


def print_medians(title: str, found: list[Measurement]) -> None:
    totals = [sum(each.phases.values()) for each in found]
    cpu = statistics.median(each.cpu for each in found)
    print(f"\n{title}: {statistics.median(totals):.1f} s ({min(totals):.1f} to {max(totals):.1f}), {cpu:.1f} CPU s")
    for phase in found[0].phases:
        print(f"  {phase:<24}{statistics.median(each.phases[phase] for each in found):8.1f} s")


if __name__ == "__main__":
    main(parse(StartupBenchmark, sys.argv[1:], "benchmark"))
