"""Jobs on a cluster, through Ray's Jobs API: submit, follow, list, stop.

A job is a command of `fer`. Its code is the current folder, packed without what `.gitignore` names, or a container
image. Ray sends the code, and the environment variables in `FORWARDED`, to every node.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import logging
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cluster.token import TOKEN
from fer.errors import UserError
from fer.options import Options

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
FORWARDED = re.compile(r"(FER|MLFLOW|AWS|GOOGLE|HF|HUGGING_FACE|FSSPEC|NCCL)_\w+")
"""Environment variables that a job gets, on all of its nodes."""
EXCLUDED = [".git"]
STOP_SECONDS = 60
"""How long a job that is stopped may take to end: a server finishes its requests first."""
AGENT_SECONDS = 120
"""How long a cluster that has just started may take until it accepts jobs."""
MIB = 2**20
LISTED = 10_000
"""Entries of a list of Ray's, at most; its limit."""


class ClusterOptions(Options):
    """Which cluster to talk to."""

    address: str | None = Field(
        None, description=f"URL of the cluster's dashboard; unset: RAY_API_SERVER_ADDRESS, else {DEFAULT_ADDRESS}"
    )


class SubmitOptions(ClusterOptions):
    """Where a job's code comes from, and what its driver needs."""

    code: str = Field(".", description="Folder to send to the cluster, without what its .gitignore names")
    image: str | None = Field(
        None,
        description="Container image with Ferry for the job's processes, in place of --code; needs podman on nodes",
    )
    max_code_mib: int = Field(100, ge=1, description="Largest size of the packed folder, in MiB")
    pip: list[str] = Field([], description="Packages that every node installs for the job, separated by commas")
    env: list[str] = Field(
        [], description="Further environment variables to send, separated by commas: NAME, or NAME=VALUE"
    )
    driver_cpus: float = Field(0, ge=0, description="CPUs of the job's driver; with 0 it also fits on a busy head")
    driver_gpus: float = Field(0, ge=0, description="GPUs of the job's driver")
    driver_resources: dict[str, float] = Field({}, description="Custom resources of the node that runs the driver")


class Detached(Exception):
    """This command no longer follows the job, which goes on. The message says how to come back."""


@contextmanager
def connected(options: ClusterOptions) -> Iterator[JobSubmissionClient]:
    """A client of the cluster's job server. Raises UserError if none answers, or it refuses the token."""
    if os.environ.get("RAY_AUTH_TOKEN") or TOKEN.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # else Ray would not send it
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("", ".dashboard.modules.dashboard_sdk", ".dashboard.modules.job.sdk"):  # each has a level of its own
        logging.getLogger(f"ray{name}").setLevel(logging.ERROR)  # they list what they pack, file by file
    address = options.address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # for Ray, the environment counts, not its argument
    try:
        yield JobSubmissionClient(address)
    except (ConnectionError, requests.ConnectionError):
        raise UserError(
            f"no Ray cluster answers at {address}; start one with `fer cluster start`, or name it with --address"
        ) from None
    except AuthenticationError:
        raise UserError(f"{address} asks for the cluster's token: copy it to {TOKEN}, or set RAY_AUTH_TOKEN") from None
    except RuntimeError as error:
        raise UserError(f"{address}: {_describe(error)}") from None


def submit(client: JobSubmissionClient, job: str, arguments: Sequence[str], name: str, options: SubmitOptions) -> str:
    """Submit ``fer JOB ARGUMENTS`` as the job ``name``; return its id, which is ``name`` or, if taken, ``name-2``.

    Raises UserError if the code is too large to send.
    """
    taken = {each.submission_id for each in client.list_jobs()}
    job_id = next(each for each in (name, *(f"{name}-{n}" for n in range(2, 10_000))) if each not in taken)
    metadata = {"job": job, "name": name, "arguments": json.dumps(list(arguments)), "user": getpass.getuser()}
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    if tracking.startswith("http"):
        metadata["mlflow"] = re.sub(r"//[^/@]*@", "//", tracking)  # without a password
    send = partial(
        client.submit_job,
        entrypoint=shlex.join(["python", "-m", "jobs", *job.split(), *arguments]),
        submission_id=job_id,
        runtime_env=runtime_env(options),
        metadata=metadata,
        entrypoint_num_cpus=options.driver_cpus or None,
        entrypoint_num_gpus=options.driver_gpus or None,
        entrypoint_resources=options.driver_resources or None,
    )
    deadline = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            return send()
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(1)


def runtime_env(options: SubmitOptions) -> dict[str, Any]:
    """What the job's processes get on every node. Raises UserError for a missing folder or one that is too large."""
    stop = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}  # by default 3 seconds
    environment: dict[str, Any] = {"env_vars": stop | environment_variables(options.env, os.environ)}
    if options.pip:
        environment |= {"pip": options.pip}
    if options.image:
        return environment | {"image_uri": options.image}
    folder = Path(options.code)
    if not folder.is_dir():
        raise UserError(f"--code {folder}: no such folder")
    check_size(folder, options.max_code_mib)
    return environment | {"working_dir": str(folder.absolute()), "excludes": EXCLUDED}


def environment_variables(names: Sequence[str], own: Mapping[str, str]) -> dict[str, str]:
    """Variables to send: those in `FORWARDED`, and ``names``. Raises UserError for a name that is not set."""
    variables = {name: value for name, value in own.items() if FORWARDED.fullmatch(name)}
    for each in names:
        name, equals, value = each.partition("=")
        if not equals and name not in own:
            raise UserError(f"--env {name}: it is not set here; write --env {name}=VALUE")
        variables[name] = value if equals else own[name]
    return variables


def check_size(folder: Path, limit: int) -> None:
    """Raise UserError if the folder, without what is ignored, has more than ``limit`` MiB; name the largest entries."""
    sizes = _entry_sizes(folder)
    total = sum(sizes.values())
    if total > limit * MIB:
        largest = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:3]
        listed = ", ".join(f"{name} ({sizes[name] / MIB:.0f} MiB)" for name in largest)
        raise UserError(
            f"--code {folder} has {total / MIB:.0f} MiB, more than --max-code-mib {limit}; the largest: {listed}. "
            "Name what the job does not need in .gitignore or .rayignore, and keep data in a storage that nodes reach"
        )


def _entry_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each entry of the folder that would be sent, by Ray's own rules."""
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sizes: dict[str, int] = {}

    def count(path: Path) -> None:
        if path.is_file() and not path.is_symlink():
            entry = path.relative_to(folder).parts[0]
            sizes[entry] = sizes.get(entry, 0) + path.stat().st_size

    folder = folder.resolve()
    _dir_travel(folder, [_get_excludes(folder, EXCLUDED)], count, include_gitignore=True)
    return sizes


def follow(client: JobSubmissionClient, job_id: str) -> int:
    """Print the job's log until it ends; return its exit code. A lost connection or Ctrl-C leaves the job running.

    Raises Detached, with how to come back.
    """
    import aiohttp
    import requests

    async def tail() -> None:
        async for lines in client.tail_job_logs(job_id):
            print(lines, end="", flush=True)

    lost = Detached(f"lost the connection; {job_id} goes on. Its log, once it is back: fer jobs logs {job_id}")
    try:
        asyncio.run(tail())
        details = find(client, job_id)
    except KeyboardInterrupt:
        raise Detached(
            f"{job_id} goes on; its log: fer jobs logs {job_id}; to stop it: fer jobs stop {job_id}"
        ) from None
    except (aiohttp.ClientError, requests.ConnectionError, ConnectionError, RuntimeError):
        raise lost from None
    if is_running(details):  # a server that ends closes its connections as at the end of a log
        raise lost
    if details.status == "SUCCEEDED":
        return 0
    if details.driver_exit_code is None:  # stopped, or it never started
        print(f"{job_id}: {details.status.lower()}: {(details.message or '').strip().splitlines()[0]}")
    return details.driver_exit_code or 1


def find(client: JobSubmissionClient, job_id: str) -> JobDetails:
    """The job of that id. Raises UserError that lists the others."""
    jobs = [job for job in client.list_jobs() if job.submission_id]
    for job in jobs:
        if job.submission_id == job_id:
            return job
    raise UserError(f"no job {job_id!r}; jobs: {', '.join(sorted(str(job.submission_id) for job in jobs)) or 'none'}")


def is_running(job: JobDetails) -> bool:
    """Whether a job has not ended, or not started yet."""
    return str(job.status.value) in ("PENDING", "RUNNING")


def find_lost(client: JobSubmissionClient, jobs: Sequence[JobDetails]) -> set[str]:
    """Ids of the jobs that Ray lists as running, although the node of their driver has ended.

    A head that was started again with its state looks for its drivers only when it is given the next job.
    """
    from ray.util.state import list_nodes

    if not any(map(is_running, jobs)):
        return set()
    nodes = list_nodes(client.get_address(), limit=LISTED)  # with a filter, it raises if a node has ended (Ray 2.60)
    alive = {node.node_id for node in nodes if node.state == "ALIVE"}
    return {str(job.submission_id) for job in jobs if alive and is_lost(job, alive)}


def is_lost(job: JobDetails, alive: set[str]) -> bool:
    """Whether the driver of a job that should run is on none of these nodes."""
    return is_running(job) and bool(job.driver_node_id) and job.driver_node_id not in alive


def new_name(job: str) -> str:
    """A name for a job, and for its run."""
    return f"{job.replace(' ', '-')}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def _describe(error: RuntimeError) -> str:
    """The reason in one line; Ray's has a traceback of the server for some."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if "Traceback" in lines[0] else lines[0]
