"""Getting a Ray cluster: the one in RAY_ADDRESS, or an embedded one that lives as long as the job."""

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
    # The clean-up actor polls a dashboard that an embedded Ray doesn't have, and would warn of it every second.
    "ray.train.v2._internal.execution.controller.placement_group_cleaner": logging.CRITICAL,
    "ray.train.v2._internal.state.util": logging.CRITICAL,
    # A traceback when the autoscaler's coordinator takes more than 5 seconds to start; the request is repeated.
    "ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client": logging.CRITICAL,
}


def connect(cpus: float) -> None:
    """Join the cluster in ``RAY_ADDRESS``, or start Ray on this machine, with room for ``cpus``.

    Embedded, CPUs are only bookkeeping, so Ray is told of as many as the job needs even where the machine has fewer.
    Raises UserError if a running cluster is too small, so that no job waits for ever for its workers.
    """
    if not ray.is_initialized():
        quiet()
        if os.environ.get("RAY_ADDRESS"):
            _init()
        else:
            _start(cpus)
    have = ray.cluster_resources().get("CPU", 0)
    if have < cpus:
        raise UserError(
            f"the job needs {cpus:g} CPUs (some are left for reading data) but the cluster has {have:g}; "
            "use fewer --workers or a lower --cpus-per-worker"
        )


def quiet() -> None:
    """Keep Ray's libraries off the console, but for warnings that matter. Runs in the driver and in every worker."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it prints every line a second time
    for name, level in LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    if ray.is_initialized():
        # Tools that look for "the" cluster of a machine find ours, also where another one runs beside it.
        os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


def _start(cpus: float) -> None:
    """Ray's own start-up limit of 30 seconds can be missed on a loaded machine: try again a few times."""
    # An embedded Ray turns token authentication on by itself, and warns of it.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    # Nobody preempts the machine one sits at, and the watcher's start prints an alarming line.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    logical = int(max(os.cpu_count() or 1, cpus + 0.999))
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            _init(address="local", num_cpus=logical, include_dashboard=False)
            return
        except Exception as error:  # Ray raises the bare class when its node was not up in time
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise
            print(f"Ray did not start ({str(error).splitlines()[0]}); trying again", flush=True)
            time.sleep(2)


def _init(**arguments: Any) -> None:
    ray.init(
        logging_level=logging.WARNING,
        runtime_env={"worker_process_setup_hook": "cluster.local.quiet"},
        **arguments,
    )
