"""Getting a Ray cluster: the one in RAY_ADDRESS, or an embedded one that lives as long as the job."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import ray

from fer.errors import UserError

START_ATTEMPTS = 3
QUIET = ("ray.train", "ray.data", "ray.tune")


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
    """Leave the console to the job: of Ray's libraries only warnings are shown. Runs in the driver and in every worker.

    Ray Train's clean-up actor polls a dashboard that an embedded Ray doesn't have, and would warn of it each second.
    """
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it prints every line a second time
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("execution.controller.placement_group_cleaner", "state.util"):
        logging.getLogger(f"ray.train.v2._internal.{name}").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        # Tools that look for "the" cluster of a machine find ours, also where another one runs beside it.
        os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


def _start(cpus: float) -> None:
    """Ray's own start-up limit of 30 seconds can be missed on a loaded machine: try again a few times."""
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
