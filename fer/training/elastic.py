"""A group of training workers that grows and shrinks with the cluster (`--workers 2..8`)."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState

from fer.data.options import CPUS_PER_READER
from fer.training.preemption import draining_nodes


class ElasticWorkers(ElasticScalingPolicy):
    """Ray Train's policy, which also leaves CPUs for the readers, and says what it does. Runs in the controller."""

    waiting = False

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            if not self.waiting and self._latest_reserved_resources is not None:
                room = self._count_possible_workers(self._latest_reserved_resources)
                least = self.scaling_config.min_workers
                print(f"the cluster has room for {room} workers: waiting for room for {least}", flush=True)
                self.waiting = True
            time.sleep(1)  # the controller would ask again at once
        elif isinstance(decision, ResizeDecision):
            print(f"training with {decision.num_workers} workers", flush=True)
            self.waiting = False
        return decision

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if isinstance(decision, ResizeDecision):
            if decision.num_workers < worker_group_state.num_workers and draining_nodes():
                return NoopDecision()  # the group leaves the node by itself, with a checkpoint
            print(
                f"the cluster has room for {decision.num_workers} workers: going on with them, from the latest "
                "checkpoint",
                flush=True,
            )
        return decision

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        """As many as fit beside the tasks that read for them, which would never start without a free CPU.

        Nodes that will be taken away have no room.
        """
        leaving = draining_nodes()
        workers = super()._count_possible_workers(
            {node: room for node, room in reserved_resources.items() if node not in leaving}
        )
        staying = (node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving)
        cpus = sum(node["Resources"].get("CPU", 0) for node in staying)
        each = self.scaling_config._resources_per_worker_not_none["CPU"]
        while workers and workers * each + max(1.0, workers * CPUS_PER_READER) > cpus:
            workers -= 1
        return workers
