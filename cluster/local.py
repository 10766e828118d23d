"""Connects to a Ray cluster: the one in RAY_ADDRESS, or a local one that stops with the job."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from threading import Thread
from typing import Any

import psutil
import ray
from ray.exceptions import AuthenticationError

from cluster.logs import redirect_logs
from cluster.serve import import_serve, serve_ports, serve_settings
from cluster.token import make_token
from fer.cpus import cpu_count
from fer.errors import UserError

START_ATTEMPTS = 3


def connect(
    cpus: float,
    meanwhile: Sequence[str] = (),
    *,
    local_cpus: float = 0,
    serves: bool = False,
    metrics_port: int | None = None,
) -> None:
    """`start_or_join` with the same arguments. Raises UserError for a cluster with fewer CPUs.

    The job would wait for its workers forever.
    """
    start_or_join(cpus, meanwhile, local_cpus=local_cpus, serves=serves, metrics_port=metrics_port)
    if problem := find_missing_cpus(cpus):
        raise UserError(problem)


def start_or_join(
    cpus: float,
    meanwhile: Sequence[str] = (),
    *,
    local_cpus: float = 0,
    serves: bool = False,
    metrics_port: int | None = None,
) -> None:
    """Connect to the cluster in ``RAY_ADDRESS``, or start Ray on this machine with at least ``cpus`` CPUs.

    CPUs of a local Ray are logical: it gets as many as the job needs and ``local_cpus``, even if the machine has fewer.
    The modules ``meanwhile`` are imported while Ray starts, on a thread. ``serves``: for Ray Serve. Prometheus finds
    the metrics of a local Ray at ``metrics_port``, by default any free port.
    Raises UserError if the cluster can't be reached.
    """
    if ray.is_initialized():
        return
    with _importing(meanwhile):
        set_up = set_up_serve_process if serves else set_up_process
        if os.environ.get("RAY_ADDRESS"):
            _join(set_up)
        else:
            os.environ.update(serve_ports())
            _start(max(cpus, local_cpus), set_up, metrics_port)
    set_up_process()


def find_missing_cpus(cpus: float) -> str | None:
    """That the cluster has fewer CPUs, and what to do; None if it has as many."""
    there = ray.cluster_resources().get("CPU", 0)
    if there >= cpus:
        return None
    return (
        f"the cluster has {there:g} of the {cpus:g} CPUs that the job needs (some are for reading data); use fewer "
        "--workers or a lower --cpus-per-worker, or add nodes"
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
    # Gloo would use the address of the host's name, which on many hosts is a loopback address.
    if interface := find_interface(ray.util.get_node_ip_address()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def find_interface(address: str) -> str | None:
    """The network interface of this host that has an address."""
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, own in interfaces if address in (each.address for each in own)), None)


def set_up_serve_process() -> None:
    """Set up a worker that is, most likely, a process of Ray Serve."""
    set_up_process()
    import_serve()


@contextmanager
def _importing(modules: Sequence[str]) -> Iterator[None]:
    """Import modules on a thread. (Ray has to start on the main one: its processes end with the thread.)"""
    thread = Thread(target=lambda: [import_module(name) for name in modules])
    thread.start()
    yield
    thread.join()


def metrics_url() -> str:
    """Where Prometheus finds the metrics of this node."""
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def _start(cpus: float, set_up: Callable[[], None], metrics_port: int | None) -> None:
    """Start a local Ray; retry, because a loaded machine can exceed Ray's start-up limit of 30 seconds."""
    # A local Ray enables token authentication by itself, and warns about it.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    if os.environ.get("RAY_AUTH_MODE", "token") == "token":
        make_token()
    # Ray would start workers ahead, which can't be used: they are not set up by `set_up_process`.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    logical = int(max(cpu_count(), cpus + 0.999))
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            _init(
                set_up,
                address="local",
                num_cpus=logical,
                include_dashboard=False,
                _metrics_export_port=metrics_port,
            )
            return
        except Exception as error:  # Ray raises a bare Exception on a timeout
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise
            print(f"Ray did not start ({str(error).splitlines()[0]}); retrying", flush=True)
            time.sleep(2)


def _join(set_up: Callable[[], None]) -> None:
    """Connect to the cluster in RAY_ADDRESS."""
    address = os.environ["RAY_ADDRESS"]
    try:
        _init(set_up)
    except (AuthenticationError, ConnectionError) as error:
        if isinstance(error, AuthenticationError) or _asks_for_token(address):
            raise UserError(
                f"the Ray cluster at {address} asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the "
                "cluster's token, or RAY_AUTH_TOKEN_PATH to a file that holds it"
            ) from None
        raise UserError(f"RAY_ADDRESS: no Ray cluster at {address} ({str(error).splitlines()[0]})") from None


def _asks_for_token(address: str) -> bool:
    """Whether a cluster refuses what this process has as a token. (`ray.init` only says that it can't connect.)"""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest  # type: ignore[attr-defined]
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    try:
        NodeInfoGcsServiceStub(init_grpc_channel(address)).GetClusterId(GetClusterIdRequest(), timeout=10)
    except grpc.RpcError as error:
        return error.code() == grpc.StatusCode.UNAUTHENTICATED
    return False


def _init(set_up: Callable[[], None], **arguments: Any) -> None:
    """Connect; ``set_up`` runs in every worker before its first task."""
    hook: Any = f"cluster.local.{set_up.__name__}"
    credentials = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    if credentials and "address" not in arguments:  # workers of a cluster have another environment
        hook = partial(_set_up_with, credentials, set_up)
        hook.__name__ = set_up.__name__  # Ray shows it
    ray.init(logging_level=logging.WARNING, runtime_env={"worker_process_setup_hook": hook}, **arguments)


def _set_up_with(credentials: dict[str, str], set_up: Callable[[], None]) -> None:
    """Give a worker the credentials of the object store. (Ray would write `env_vars` of a runtime_env to its logs.)"""
    os.environ.update(credentials)
    set_up()
