"""What a cluster runs: its nodes, and its jobs with their progress, GPUs and costs."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cluster.submission import LISTED, ClusterOptions, connected, find_lost, is_running
from fer.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

PROGRESS = re.compile(r"\b(stage|epoch|step|trial|question)s? +([\d,]+)/([\d,]+)")
"""How Ferry's jobs print where they are."""
START_SECONDS = 120
"""A dashboard that has just started does not know its nodes yet."""


@dataclass(frozen=True)
class Node:
    """A node of the cluster."""

    address: str
    head: bool
    state: str
    resources: dict[str, float]
    labels: dict[str, str]

    def custom_resources(self) -> dict[str, float]:
        """Resources that the node's owner has named."""
        rays = re.compile("CPU|GPU|memory|object_store_memory|node:.*|accelerator_type:.*")
        return {name: amount for name, amount in self.resources.items() if not rays.fullmatch(name)}


@dataclass(frozen=True)
class JobState:
    """A job of the cluster."""

    job_id: str
    command: str
    status: str
    """As Ray says; "lost" if the node of the job's driver has ended, and Ray has not noticed."""
    seconds: float
    """Time since its start, or until its end."""
    progress: str
    """Such as "epoch 3/30"; empty if the job has not said yet."""
    remaining: float | None
    """Seconds left, if it goes on at this pace."""
    gpus: float
    """GPUs that its placement groups hold; for a job that has ended, the most of any that it held."""

    @property
    def gpu_hours(self) -> float:
        return self.gpus * self.seconds / 3600


def nodes(options: ClusterOptions) -> list[Node]:
    """The cluster's nodes, the head first."""
    with connected(options) as client:
        from ray.util.state import list_nodes

        deadline = time.monotonic() + START_SECONDS
        while not (states := list_nodes(client.get_address(), limit=LISTED, detail=True)):
            if time.monotonic() > deadline:
                raise UserError(f"the cluster at {client.get_address()} has no node after {START_SECONDS} s")
            time.sleep(0.5)
    found = [
        Node(each.node_ip, each.is_head_node, each.state, each.resources_total or {}, own_labels(each.labels or {}))
        for each in states
    ]
    return sorted(found, key=lambda node: (not node.head, node.state, node.address))


def own_labels(labels: dict[str, str]) -> dict[str, str]:
    """Labels without those that Ray gives to every node."""
    return {name: value for name, value in labels.items() if not name.startswith("ray.io/")}


def jobs(options: ClusterOptions) -> list[JobState]:
    """The jobs that were submitted, the newest first."""
    with connected(options) as client:
        from ray.util.state import list_placement_groups

        submitted = [job for job in client.list_jobs() if job.submission_id]
        groups = list_placement_groups(client.get_address(), limit=LISTED, detail=True)
        lost = find_lost(client, submitted)
        running = [str(job.submission_id) for job in submitted if is_running(job)]
        running = [job_id for job_id in running if job_id not in lost]
        logs = {job_id: client.get_job_logs(job_id) for job_id in running}
    submitted.sort(key=lambda job: job.start_time or 0, reverse=True)
    states = [_state(job, logs.get(str(job.submission_id), ""), groups) for job in submitted]
    return [replace(state, status="lost", remaining=None) if state.job_id in lost else state for state in states]


def _state(job: JobDetails, log: str, groups: Sequence[Any]) -> JobState:
    end = job.end_time / 1000 if job.end_time else time.time()
    seconds = max(0.0, end - (job.start_time or 0) / 1000)
    progress, share = find_progress(log)
    metadata = job.metadata or {}
    return JobState(
        job_id=str(job.submission_id),
        command=metadata.get("job", job.entrypoint),
        status=str(job.status.value).lower(),
        seconds=seconds,
        progress=progress,
        remaining=seconds / share - seconds if share and is_running(job) else None,
        gpus=gpus_of([group for group in groups if group.creator_job_id == job.job_id]),
    )


def gpus_of(groups: Sequence[Any]) -> float:
    """GPUs of the placement groups that exist; if none does, those of the largest one."""
    amounts = [
        (group.state, sum(bundle["unit_resources"].get("GPU", 0) for bundle in group.bundles or [])) for group in groups
    ]
    now = [amount for state, amount in amounts if state != "REMOVED"]
    return sum(now) if now else max((amount for _, amount in amounts), default=0.0)


def find_progress(log: str) -> tuple[str, float]:
    """The last line of progress in a log, and the share of the work that is done, 0 to 1; ("", 0) without one."""
    lines = PROGRESS.findall(log)
    if not lines:
        return "", 0.0
    unit, *numbers = lines[-1]
    done, total = (int(number.replace(",", "")) for number in numbers)
    return f"{unit} {done:,}/{total:,}", done / total if total else 0.0
