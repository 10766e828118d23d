"""Checks of a cluster before a job starts: room for its processes, and on every node Ferry and the storage."""

from __future__ import annotations

import math
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.local import find_missing_cpus, is_local, start_or_join
from fer import __version__
from fer.errors import UserError
from fer.storage import get_filesystem
from fer.training.options import LaunchOptions
from fer.training.placement import Bundle, check_placement

SECONDS = 120
"""Longest wait for a node's answer: it may have to unpack the job's code and install packages first."""


def connect_for(job: LaunchOptions, meanwhile: Sequence[str] = (), also: Sequence[Bundle] = ()) -> None:
    """Connect to a cluster, or start Ray on this machine, for a job and processes that run beside it.

    Raises UserError if the cluster can't be reached, does not get room for them within ``start_timeout`` seconds, or
    has nodes that can't run the job.
    """
    cpus = job.required_cpus + cpus_of(also)
    start_or_join(cpus, meanwhile)
    wait_for_room(cpus, [job.worker_bundle, *also], 0 if is_local() else job.start_timeout)
    if not is_local():
        check_nodes(job.storage)


def wait_for_room(cpus: float, bundles: Sequence[Bundle], seconds: float) -> None:
    """Ask the autoscaler for nodes with ``cpus`` in all, on which the processes fit, and wait for them.

    Raises UserError if they are not there after ``seconds``.
    """
    problem, started = find_problem(cpus, bundles), time.monotonic()
    if problem and seconds:
        print(f"{problem}: waiting {seconds:g} s at most for more nodes (--start-timeout)", flush=True)
        processes = [bundle for bundle in bundles for _ in range(bundle.number)]
        processes += [Bundle("reader", 1, {"CPU": 1.0}, "")] * math.ceil(cpus - cpus_of(bundles))
        wanted: list[dict[str, Any]] = [dict(process.resources) for process in processes]
        labels = [dict(process.labels) for process in processes]
        try:
            while problem and time.monotonic() < started + seconds:
                # Again and again: another job's request replaces it.
                request_resources(bundles=wanted, bundle_label_selectors=labels)
                time.sleep(1)
                problem = find_problem(cpus, bundles)
        finally:  # also after Ctrl-C: a request outlives this process, and would keep its nodes for ever
            request_resources(bundles=[])  # Ray Train asks for what it needs itself
        if not problem:
            print(f"the nodes are there after {time.monotonic() - started:.0f} s", flush=True)
    if problem:
        raise UserError(problem)


def find_problem(cpus: float, bundles: Sequence[Bundle]) -> str | None:
    """What does not fit on the nodes that run now; None if all does."""
    nodes = {f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})": node for node in alive_nodes()}
    resources = {address: node["Resources"] for address, node in nodes.items()}
    labels = {address: node["Labels"] for address, node in nodes.items()}
    try:
        check_placement(bundles, resources, labels)
    except UserError as error:
        return str(error)
    return find_missing_cpus(cpus)


def cpus_of(bundles: Sequence[Bundle]) -> float:
    return sum(bundle.number * bundle.resources["CPU"] for bundle in bundles)


def alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def check_nodes(storage: str) -> None:
    """Check the nodes that run now. Nothing to do on a single one, which is the driver's.

    Raises UserError that names each node that lacks Ferry, has another version of it, of Ray or of Python, or does not
    see what this process writes to ``storage``, a path or URI.
    """
    nodes = alive_nodes()
    if len(nodes) < 2:
        return
    filesystem, folder = get_filesystem(storage)
    filesystem.makedirs(folder, exist_ok=True)
    marker = f"{folder}/.preflight-{uuid.uuid4().hex}"
    filesystem.pipe_file(marker, b"")
    try:
        answers = [(node["NodeManagerAddress"], probe(node["NodeID"], storage, marker)) for node in nodes]
        problems = [f"{address}: {problem}" for address, task in answers if (problem := describe(task))]
    finally:
        filesystem.rm_file(marker)
    if problems:
        raise UserError(f"nodes that cannot run the job: {'; '.join(problems)}")


def probe(node_id: str, storage: str, marker: str) -> Any:
    """Start the check of one node; its result is the versions there, and why the storage cannot be read, if so."""

    def look() -> dict[str, str | None]:
        import sys

        import ray

        try:
            from fer import __version__
        except ImportError:
            return {"Ferry": None}
        found: dict[str, str | None] = {"Ferry": __version__, "Ray": ray.__version__}
        found["Python"] = "{}.{}".format(*sys.version_info)
        try:
            from fer.storage import get_filesystem

            filesystem, _ = get_filesystem(storage)
            found["storage"] = None if filesystem.exists(marker) else "it is empty there: is it this node's own disk?"
        except Exception as error:  # of any storage's library
            found["storage"] = f"{type(error).__name__}: {error}"
        return found

    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(look).options(num_cpus=0, scheduling_strategy=strategy, max_retries=0).remote()


def describe(task: Any) -> str | None:
    """What is wrong with a node; None if nothing is."""
    try:
        found = ray.get(task, timeout=SECONDS)
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {SECONDS} s"
    except ray.exceptions.RayError as error:  # its process cannot start, for example without Ferry
        return str(error).strip().splitlines()[-1]
    if found["Ferry"] is None:
        return "Ferry is not installed"
    own = {"Ferry": __version__, "Ray": ray.__version__, "Python": "{}.{}".format(*sys.version_info)}
    for name, version in own.items():
        if found[name] != version:
            return f"{name} {found[name]}, where the driver has {version}"
    return f"cannot reach the storage ({found['storage']})" if found["storage"] else None
