"""A job of which one node is taken away, with notice and without: what is repeated, and whether the results differ.

    python -m tests.cluster.node_taken FOLDER sft notice lost         # or dynamics, prepare; grpo also engine-lost

The cluster is one of this machine, of a head without CPUs and two nodes with a training worker each. FOLDER is made.
Takes four minutes on two cores.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.fixtures.nodes import Nodes

GROUP = ["--workers", "2", "--cpus-per-worker", "3", "--threads", "1", "--device", "cpu", "--max-failures", "1"]
VLM = ["--model", "tiny:qwen2.5-vl", "--precision", "fp32", "--image-size", "28", "--no-grad-checkpointing"]
VLM += ["--train", "vision,projector,language", "--batch-size", "4", "--checkpoint-every", "4"]
NETWORK = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_type": "deep", "stem_width": 4}
JOBS: dict[str, list[str]] = {
    "sft": [*GROUP, *VLM, "--epochs", "2", "--grad-accum-steps", "1", "--eval-rows", "8", "--eval-generations", "0"],
    "grpo": [
        *(*GROUP, *VLM, "--worker-labels", "role=trainer", "--engine-labels", "role=engine"),
        *("--prompts-per-step", "4", "--num-generations", "4", "--max-prompt-tokens", "160", "--max-new-tokens", "16"),
    ],
    "dynamics": [*GROUP, "--config", "small-cpu", "--model-kwargs", json.dumps(NETWORK), "--batch-size", "8"],
    "prepare": ["--shard-mb", "1", "--val-split", "0.15"],
}
LOOPS = {
    "sft": ("fer.vlm.sft", "train_sft", "SftTrainer", "train_step"),
    "grpo": ("fer.grpo.trainer", "train_grpo", "GrpoTrainer", "collect_rollouts"),
    "dynamics": ("fer.dynamics.runner", "train_dynamics", "DynamicsTrainer", "train_epoch"),
}
"""Where each job's training loop is, and the method of its trainer that is a step: of dynamics, an epoch."""
RECORD = """
import sys
from importlib import import_module
from jobs.__main__ import main

file, module, loop, trainer, method = sys.argv[1:6]
del sys.argv[1:6]

def record_and_train(settings):
    import json, time

    train = getattr(import_module(module), loop)
    cls = getattr(import_module(train.__module__), trainer)
    step = getattr(cls, method)

    def recorded(self, *arguments):
        if self.worker.is_rank_zero:
            with open(file, "a") as steps:
                name = [getattr(self.state, "stage", None), self.state.epoch, self.state.global_step]
                print(json.dumps([time.time(), name]), file=steps)
        time.sleep(0.3)
        return step(self, *arguments)

    setattr(cls, method, recorded)
    train(settings)

setattr(import_module(module), loop, record_and_train)
sys.exit(main(sys.argv[1:]))
"""
"""Runs a job, and records when each step begins."""


def main(folder: Path, job: str, *ways: str) -> None:
    folder.mkdir()
    nodes = Nodes()
    try:
        taken = TakenNode(folder, job, nodes, write_data(folder, job))
        disturb = {"notice": taken.give_notice, "lost": taken.lose, "engine-lost": partial(taken.lose, "engine")}
        taken.run("undisturbed", lambda: None)
        for way in ways:
            taken.run(way, disturb[way])
    finally:
        nodes.stop()


def write_data(folder: Path, job: str) -> str:
    """Write the job's data; its path."""
    from fer.data.synthetic import write_faces
    from fer.dynamics.synthetic import write_sequences
    from jobs.__main__ import main as fer

    if job == "dynamics":
        write_sequences(folder / "frames", videos=10, frames=4)
        return str(folder / "frames")
    many = job == "prepare"
    write_faces(folder / "faces", per_class=150 if many else 20, size=192 if many else 48)
    if many:
        return str(folder / "faces")
    questions, shards = str(folder / "questions.jsonl"), str(folder / "shards")
    assert fer(["questions", "--data", str(folder / "faces"), "--out", questions]) == 0
    words = ["--format", "vqa", "--data", questions, "--image-root", str(folder / "faces"), "--out", shards]
    assert fer(["prepare", *words, "--val-split", "0.2"]) == 0
    return shards


class TakenNode:
    """Runs a job, each time on another two nodes, and says what was seen."""

    def __init__(self, folder: Path, job: str, nodes: Nodes, data: str) -> None:
        self.folder, self.job, self.nodes, self.data = folder, job, nodes, data
        self.add(), self.add()
        if job == "grpo":
            self.add("engine")
        self.lines: list[str] = []
        self.undisturbed: Any = None

    def add(self, role: str = "trainer") -> None:
        self.nodes.add(cpus=1 if role == "engine" else 4, role=role)

    def run(self, name: str, disturb: Callable[[], None]) -> None:
        """Run the job, and disturb it after some steps or shards."""
        self.steps, self.out, self.lines = self.folder / f"{name}.steps", self.folder / name, []
        words = [self.job, "--data", self.data, *JOBS[self.job]]
        if self.job == "prepare":
            driver = self.nodes.run("-m", "jobs", *words, "--out", str(self.out))
        else:
            record = ["-c", RECORD, str(self.steps), *LOOPS[self.job]]
            driver = self.nodes.run(*record, *words, "--storage", str(self.folder), "--name", name)
        reader = threading.Thread(target=self.read, args=(driver.stdout, time.monotonic()))
        reader.start()
        while self.begun() < 6 and driver.poll() is None:
            time.sleep(0.05)
        disturb()
        code = driver.wait()
        reader.join()
        results = self.results(name)
        if name == "undisturbed":
            self.undisturbed = results
        say(f"{self.job}, {name}: exit code {code}, {self.step_summary()}; same results: {results == self.undisturbed}")

    def read(self, stream: Any, started: float) -> None:
        for line in stream:
            self.lines.append(line)
            print(f"[{time.monotonic() - started:.0f} s] {line}", end="", flush=True)

    def begun(self) -> int:
        """Steps that have begun, or shards that are written."""
        if self.job == "prepare":
            return len(list(self.out.glob("unfinished/*-*.json")))
        return len(self.steps.read_text().splitlines()) if self.steps.exists() else 0

    def give_notice(self) -> None:
        """The oldest node will be taken away; take it once the job has said so, or after a while."""
        say("notice")
        self.nodes.drain_oldest(seconds=60)
        deadline = time.monotonic() + 20
        while not any("will be taken away" in line for line in self.lines) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.lose()

    def lose(self, role: str = "trainer") -> None:
        """Kill the oldest node; another one joins."""
        self.nodes.remove_oldest(role)
        say("the node is gone")
        self.add(role)

    def step_summary(self) -> str:
        if self.job == "prepare":
            return f"{len(list(self.out.rglob('*.parquet')))} shards"
        begun = [json.loads(line) for line in self.steps.read_text().splitlines()]
        names = [tuple(name) for _, name in begun]
        times = [at for at, _ in begun]
        pause = max(after - before for before, after in pairwise(times))
        return f"{len(set(names))} steps, {len(names) - len(set(names))} begun again, longest pause {pause:.0f} s"

    def results(self, name: str) -> Any:
        """What two equal runs have in common; of GRPO, whose completions are sampled, the numbers of its steps."""
        if self.job == "prepare":
            return {str(f.relative_to(self.out)): f.read_bytes() for f in self.out.rglob("*") if f.is_file()}
        if self.job == "grpo":
            return [entry["step"] for entry in json.loads((self.out / "history.json").read_text())]
        if self.job == "sft":
            return step_losses(self.folder, name)
        history = json.loads((self.out / "training_history.json").read_text())
        return {stage: [entry | {"seconds": 0} for entry in entries] for stage, entries in history.items()}


def step_losses(folder: Path, name: str) -> dict[int, float]:
    from mlflow.tracking import MlflowClient

    record = json.loads((folder / name / "run.json").read_text())
    points = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_metric_history(record["mlflow_run_id"], "step_loss")
    return {point.step: point.value for point in points}


def say(what: str) -> None:
    print(f"==== {what}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), *sys.argv[2:])
