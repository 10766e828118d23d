"""A node that will be taken away: the workers save a checkpoint while it is still there, and go on without it.

Ray drains a node that it knows will go: one that `fer cluster stop` or the autoscaler ends, a pod that Kubernetes
deletes, a spot machine for which `ray drain-node` was called. It then places nothing new there. Ray Train has a watcher
for that, a process more for each run. It lets the workers train on until the deadline, steps that would be repeated, so
it stays off.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

import ray
from ray.train import CheckpointConsistencyMode
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.util import get_current_placement_group, placement_group_table

if TYPE_CHECKING:
    from fer.training.worker import Worker

CHECK_SECONDS = 2.0
"""How often the workers look. Clouds give notice 30 seconds (Google Cloud, Azure) to two minutes (AWS) before."""


class NodePreempted(Exception):
    """A node of the workers will be taken away, and they have saved a checkpoint. The message names it."""


class PreemptionNotice:
    """Whether a node of the workers will be taken away, with the same answer on each of them."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.interval = 1
        """Steps from one look to the next."""
        self.steps = 0
        """Steps since the last look."""
        self.looked = time.perf_counter()
        self.nodes: list[str] = []
        """Addresses of the nodes that will be taken away."""

    def arrived(self) -> bool:
        """Whether to save a checkpoint now, and `leave`. Collective: every worker must call it before each step.

        Rank 0 looks every `CHECK_SECONDS`, and tells the others what it saw and after how many steps it looks again.
        """
        self.steps += 1
        if self.worker.report_fn or self.steps < self.interval:
            return False
        seen = (self._next_interval(), draining_group_nodes()) if self.worker.is_rank_zero else None
        self.interval, self.nodes = self.worker.broadcast(seen)
        self.steps = 0
        return bool(self.nodes)

    def leave(self) -> NoReturn:
        """Wait until the last checkpoint is stored, then end this worker; Ray Train starts the group elsewhere."""
        ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)
        raise NodePreempted(f"{' and '.join(self.nodes)} will be taken away")

    def _next_interval(self) -> int:
        """As many steps as take `CHECK_SECONDS`, at most twice as many as before: the first may be quick or slow."""
        now = time.perf_counter()
        steps = round(self.interval * CHECK_SECONDS / (now - self.looked))
        self.looked = now
        return max(1, min(steps, 2 * self.interval))


def draining_nodes() -> set[str]:
    """Ids of the nodes that will be taken away."""
    return set(ray._private.state.state.get_draining_nodes())


def draining_group_nodes() -> list[str]:
    """Addresses of those that this worker's group runs on."""
    if not (draining := draining_nodes()):
        return []
    group = set(placement_group_table(get_current_placement_group())["bundles_to_node_id"].values())
    return [node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] in draining & group]


def find_preemption(worker_errors: dict[int, Any]) -> NodePreempted | None:
    """What `leave` has raised on a worker; None if they failed otherwise."""
    causes = (getattr(error, "_base_exc", error) for error in worker_errors.values())
    return next((cause for cause in causes if isinstance(cause, NodePreempted)), None)


class PreemptionPolicy(DefaultFailurePolicy):
    """Ray Train's policy, for which a group that has left a node has not failed. Runs in the controller."""

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        error = training_failed_error
        if isinstance(error, WorkerGroupError) and find_preemption(error.worker_failures):
            return FailureDecision.RETRY
        return super().make_decision(error)
