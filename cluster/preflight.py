"""Checks every node of a cluster before a job starts: Ferry and its versions, and the storage that all must reach."""

from __future__ import annotations

import sys
import uuid
from typing import Any

import fsspec
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fer import __version__
from fer.errors import UserError

SECONDS = 120
"""Longest wait for a node's answer: it may have to unpack the job's code and install packages first."""


def check_nodes(storage: str) -> None:
    """Check the nodes that run now. Nothing to do on a single one, which is the driver's.

    Raises UserError that names each node that lacks Ferry, has another version of it, of Ray or of Python, or does not
    see what this process writes to ``storage``, a path or URI.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    filesystem, folder = fsspec.url_to_fs(storage)
    filesystem.makedirs(folder, exist_ok=True)
    marker = f"{folder.rstrip('/')}/.preflight-{uuid.uuid4().hex}"
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

        import fsspec
        import ray

        try:
            from fer import __version__
        except ImportError:
            return {"Ferry": None}
        found: dict[str, str | None] = {"Ferry": __version__, "Ray": ray.__version__}
        found["Python"] = "{}.{}".format(*sys.version_info)
        try:
            filesystem, _ = fsspec.url_to_fs(storage)
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
