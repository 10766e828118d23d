"""A node that will be taken away: when the workers look, and a run that repeats no step."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import FailureConfig
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.api.exceptions import WorkerGroupError

from fer.training import elastic, preemption
from fer.training.elastic import ElasticWorkers
from fer.training.launch import FailureLine
from fer.training.preemption import NodePreempted, PreemptionNotice, PreemptionPolicy
from fer.training.worker import Worker

CPU = torch.device("cpu")
LEAVE = {0: UserExceptionWithTraceback(NodePreempted("10.0.0.3 will be taken away"), "Traceback"), 1: OSError("reset")}


@dataclass(frozen=True)
class Rank(Worker):
    """A worker of a group without Ray; ``broadcasts``: what rank 0 has sent, in order."""

    broadcasts: list[Any] = field(default_factory=list)
    received: Any = field(default_factory=itertools.count)

    def broadcast(self, value: Any) -> Any:
        if self.is_rank_zero:
            self.broadcasts.append(value)
        return self.broadcasts[next(self.received)]


def test_all_workers_hear_of_it_before_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 takes no look of its own, and does not know how long steps take."""
    clock, draining = [0.0], []
    monkeypatch.setattr(preemption.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(preemption, "draining_group_nodes", lambda: list(draining))
    first = Rank(0, 2, CPU)
    notices = [PreemptionNotice(each) for each in (first, Rank(1, 2, CPU, broadcasts=first.broadcasts))]
    for step in range(100):
        draining[:] = ["10.0.0.3"] if step >= 50 else []
        clock[0] += 0.25
        arrived = [notice.arrived() for notice in notices]
        assert arrived[0] == arrived[1]
        if arrived[0]:
            break
    assert 50 <= step < 50 + preemption.CHECK_SECONDS / 0.25
    assert notices[1].nodes == ["10.0.0.3"]
    assert len(first.broadcasts) < 12, "not before each step"


def test_slow_steps_are_followed_by_a_look_each(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=60.0)
    monkeypatch.setattr(preemption.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(preemption, "draining_group_nodes", list)
    worker = Rank(0, 1, CPU)
    notice = PreemptionNotice(worker)
    assert not any(notice.arrived() for _ in range(5))
    assert len(worker.broadcasts) == 5


def test_a_process_of_its_own_does_not_look() -> None:
    """Ray Tune, not Ray Train, starts a trial again."""
    assert not PreemptionNotice(Worker(0, 1, CPU, report_fn=print)).arrived()


def test_leaving_a_node_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    policy, line = PreemptionPolicy(FailureConfig(max_failures=0)), FailureLine(0, lambda: False)
    for _ in range(2):
        assert policy.make_decision(WorkerGroupError("leave", LEAVE)) == FailureDecision.RETRY
        line.after_exception(None, LEAVE)
    output = capsys.readouterr().out
    assert output == 2 * "10.0.0.3 will be taken away: going on without it, from a checkpoint of this step\n"
    assert line.failures == 0
    assert policy.make_decision(WorkerGroupError("fail", {0: OSError("disk")})) == FailureDecision.RAISE


def test_a_group_of_any_size_does_not_count_on_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"NodeID": name, "Alive": True, "Resources": {"CPU": 4.0}} for name in "ab"]
    monkeypatch.setattr(elastic.ray, "nodes", lambda: nodes)
    policy = ElasticWorkers(ScalingConfig(num_workers=(1, 8), resources_per_worker={"CPU": 1}))
    rooms = {}
    for leaving in (set(), {"b"}):
        monkeypatch.setattr(elastic, "draining_nodes", lambda leaving=leaving: leaving)
        rooms[len(leaving)] = policy._count_possible_workers({"a": {"CPU": 4.0}, "b": {"CPU": 4.0}})
    assert rooms == {0: 6, 1: 3}, "and leaves CPUs for the readers on the nodes that stay"


TRAIN = """
import sys
from fer.classifier import train
from jobs.__main__ import main

steps_file = sys.argv.pop(1)

def train_and_record(settings):
    import time
    from pathlib import Path
    from fer.classifier.model_state import ModelState
    from fer.classifier.train import train_classifier
    import ray.train

    step = ModelState.step

    def recorded(self, global_step):
        step(self, global_step)
        time.sleep(0.1)
        if ray.train.get_context().get_world_rank() == 0:
            with open(steps_file, "a") as file:
                print(global_step, file=file)
        while not Path(steps_file + ".notice").exists():
            time.sleep(0.05)

    ModelState.step = recorded
    train_classifier(settings)

train.train_classifier = train_and_record
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.faults
@pytest.mark.slow
def test_a_run_on_a_node_that_is_taken_away_repeats_no_step(
    start_nodes: Callable[..., Any], small_shards: Path, tmp_path: Path
) -> None:
    words = ["train", "--data", str(small_shards), "--storage", str(tmp_path), "--name", "spot", "--img-size", "40"]
    words += ["--backbone", "test_resnet", "--batch-size", "8", "--epochs", "1", "--workers", "2"]
    words += ["--cpus-per-worker", "3", "--threads", "1", "--start-timeout", "200", "--max-failures", "0"]
    steps_file = tmp_path / "steps"
    with start_nodes() as nodes:
        nodes.add(cpus=4)
        nodes.add(cpus=4)
        driver = nodes.run("-c", TRAIN, str(steps_file), *words)
        while not steps_file.exists() and driver.poll() is None:
            time.sleep(0.05)
        nodes.drain_oldest(seconds=60)
        Path(f"{steps_file}.notice").touch()  # the run is not over before
        seen = []
        for line in iter(driver.stdout.readline, ""):
            seen.append(line)
            if "will be taken away" in line:
                break
        nodes.remove_oldest()
        nodes.add(cpus=4)  # the group waits for it
        seen.append(driver.stdout.read())
        assert driver.wait(300) == 0, "".join(seen)
    output = "".join(seen)
    assert "will be taken away: going on without it, from a checkpoint of this step\n" in output
    history = json.loads((tmp_path / "spot" / "history.json").read_text())
    steps = [int(line) for line in steps_file.read_text().split()]
    assert steps == list(range(1, len(steps) + 1)), f"a step was repeated or left out\n{output}"
    assert len(history) == 1
