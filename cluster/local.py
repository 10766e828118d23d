"""Connects to a Ray cluster: the one in RAY_ADDRESS, or a local one that stops with the job."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from threading import Thread
from typing import Any

import ray

from cluster.logs import redirect_logs
from cluster.serve import serve_settings
from fer.errors import UserError

START_ATTEMPTS = 3


def connect(cpus: float, meanwhile: Sequence[str] = ()) -> None:
    """Connect to the cluster in ``RAY_ADDRESS``, or start Ray on this machine with at least ``cpus`` CPUs.

    CPUs of a local Ray are logical: it gets as many as the job needs, even if the machine has fewer. The modules
    ``meanwhile`` are imported while Ray starts, on a thread.
    Raises UserError if the cluster has fewer than ``cpus``; the job would wait for its workers forever.
    """
    if not ray.is_initialized():
        with _importing(meanwhile):
            if os.environ.get("RAY_ADDRESS"):
                _init()
            else:
                _start(cpus)
        set_up_process()
    available = ray.cluster_resources().get("CPU", 0)
    if available < cpus:
        raise UserError(
            f"the job needs {cpus:g} CPUs (some are left for reading data) but the cluster has {available:g}; "
            "use fewer --workers or a lower --cpus-per-worker"
        )


def disconnect() -> None:
    """Leave the cluster. A local Ray stops, and RAY_ADDRESS, which `connect` set, no longer names it."""
    local = is_local()
    ray.shutdown()
    if local:
        os.environ.pop("RAY_ADDRESS", None)


def is_local() -> bool:
    """Whether this process started the Ray that it is connected to."""
    node: Any = ray._private.worker._global_node  # None before ray.init
    return node is not None and node.head


def set_up_process() -> None:
    """Set up a process that is connected to Ray: the driver, and every worker before its first task."""
    gc.set_threshold(10_000)  # imports leave no garbage, and looking for it took a third of their time
    redirect_logs()
    os.environ.update(serve_settings())
    # Tools that look for the cluster of this machine find ours, even if another one runs on it.
    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


@contextmanager
def _importing(modules: Sequence[str]) -> Iterator[None]:
    """Import modules on a thread. (Ray has to start on the main one: its processes end with the thread.)"""
    thread = Thread(target=lambda: [import_module(name) for name in modules])
    thread.start()
    yield
    thread.join()


def _start(cpus: float) -> None:
    """Start a local Ray; retry, because a loaded machine can exceed Ray's start-up limit of 30 seconds."""
    # A local Ray enables token authentication by itself, and warns about it.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    # A local machine is not preempted, and the watcher prints an alarming line when it starts.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Ray would start workers ahead, which can't be used: they are not set up by `set_up_process`.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
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
        runtime_env={"worker_process_setup_hook": "cluster.local.set_up_process"},
        **arguments,
    )
