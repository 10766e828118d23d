"""Connects to a Ray cluster: the one in RAY_ADDRESS, or a local one that stops with the job."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import ray

from fer.errors import UserError

START_ATTEMPTS = 3
LOG_LEVELS = {
    "ray.train": logging.WARNING,
    "ray.data": logging.WARNING,
    "ray.tune": logging.WARNING,
    # "Progress bars disabled", once for each training worker: the data reader disables them.
    "ray.data._internal.progress": logging.ERROR,
    # "The job may hang forever": Ray Data shares the CPUs that training leaves free among its streams as whole numbers,
    # so of one CPU, two streams get none. Each still runs one task at a time, and `connect` has made sure of that CPU.
    "ray.data._internal.execution.resource_manager": logging.ERROR,
    # The clean-up actor polls a dashboard that a local Ray does not have, and would warn every second.
    "ray.train.v2._internal.execution.controller.placement_group_cleaner": logging.CRITICAL,
    "ray.train.v2._internal.state.util": logging.CRITICAL,
    # A traceback when the autoscaler's coordinator takes more than 5 seconds to start; the request is repeated.
    "ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client": logging.CRITICAL,
}


def connect(cpus: float) -> None:
    """Connect to the cluster in ``RAY_ADDRESS``, or start Ray on this machine with at least ``cpus`` CPUs.

    CPUs of a local Ray are logical: it gets as many as the job needs, even if the machine has fewer.
    Raises UserError if the cluster has fewer than ``cpus``; the job would wait for its workers forever.
    """
    if not ray.is_initialized():
        quiet()
        if os.environ.get("RAY_ADDRESS"):
            _init()
        else:
            _start(cpus)
    available = ray.cluster_resources().get("CPU", 0)
    if available < cpus:
        raise UserError(
            f"the job needs {cpus:g} CPUs (some are left for reading data) but the cluster has {available:g}; "
            "use fewer --workers or a lower --cpus-per-worker"
        )


def quiet() -> None:
    """Silence Ray's libraries except for warnings that matter. Runs in the driver and in every worker."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it prints every line a second time
    for name, level in LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    if ray.is_initialized():
        # Tools that look for the cluster of this machine find ours, even if another one runs on it.
        os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


def _start(cpus: float) -> None:
    """Start a local Ray; retry, because a loaded machine can exceed Ray's start-up limit of 30 seconds."""
    # A local Ray enables token authentication by itself, and warns about it.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    # A local machine is not preempted, and the watcher prints an alarming line when it starts.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    logical = int(max(os.cpu_count() or 1, cpus + 0.999))
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            _init(address="local", num_cpus=logical, include_dashboard=False)
            return
        except Exception as error:  # Ray raises a bare Exception on a timeout
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise
            print(f"Ray did not start ({str(error).splitlines()[0]}); retrying", flush=True)
            time.sleep(2)


def _init(**arguments: Any) -> None:
    ray.init(
        logging_level=logging.WARNING,
        runtime_env={"worker_process_setup_hook": "cluster.local.quiet"},
        **arguments,
    )
