"""A real cluster of `fer cluster start`: what its token protects, where credentials end up, and leaving a job."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil
import pytest

from cluster.ports import free_port
from fer.data.synthetic import write_faces
from tests.fixtures.fer_command import Fer
from tests.waiting import until

pytestmark = pytest.mark.slow

SECRET = "not-to-be-found-in-any-log"
PROGRAM = """
import os
import ray
from cluster.local import connect

connect(1)
read = ray.remote(lambda: os.environ.get("AWS_SECRET_ACCESS_KEY"))
print("worker:", ray.get(read.remote()))
"""
RUN_CODE = {
    "dashboard.py": ["POST /api/jobs/", "PUT /api/packages/gcs/x.zip", "PUT /api/serve/applications/"],
    "DashboardAgent": ["POST /api/job_agent/jobs/", "ray.rpc.ReporterService/GetTraceback"],
    "RuntimeEnvAgent": ["POST /get_or_create_runtime_env"],
    "gcs_server": ["ray.rpc.ActorInfoGcsService/CreateActor", "ray.rpc.InternalKVGcsService/InternalKVPut"],
    "raylet": ["ray.rpc.NodeManagerService/RequestWorkerLease", "ray.rpc.ObjectManagerService/Push"],
    "client.server": ["ray.rpc.RayletDriver/Init"],
    "ray::JobSupervisor": ["ray.rpc.CoreWorkerService/PushTask"],
}
"""Endpoints that would give a stranger control, by process."""
READ = {
    "dashboard.py": ["GET /api/jobs/", "GET /api/v0/nodes", "GET /nodes?view=summary", "GET /api/serve/applications/"],
    "DashboardAgent": ["GET /api/job_agent/jobs/x/logs", "ray.rpc.LogService/ListLogs"],
    "gcs_server": ["ray.rpc.NodeInfoGcsService/GetAllNodeInfo"],
    "raylet": ["ray.rpc.NodeManagerService/GetNodeStats"],
    "client.server": ["ray.rpc.RayletDriver/ClusterInfo"],
    "ray::JobSupervisor": ["ray.rpc.CoreWorkerService/GetCoreWorkerStats"],
}


class RunningCluster(NamedTuple):
    fer: Fer
    home: Path
    port: int


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """A cluster whose nodes know no credentials."""
    home = Path(tempfile.mkdtemp(prefix="fer-"))
    port, dashboard = free_port(), free_port()
    fer = Fer(home, RAY_API_SERVER_ADDRESS=f"http://127.0.0.1:{dashboard}")
    started = fer("cluster", "start", "--cpus", "1", "--port", str(port), "--dashboard-port", str(dashboard))
    assert started.returncode == 0, started.stderr
    yield RunningCluster(fer, home, port)
    fer("cluster", "stop")
    shutil.rmtree(home)
    shutil.rmtree(f"/tmp/ray-{port}", ignore_errors=True)


def test_workers_and_jobs_get_the_credentials_and_logs_do_not(cluster: RunningCluster) -> None:
    fer = cluster.fer
    fer.environment["AWS_SECRET_ACCESS_KEY"] = SECRET
    submitted = fer("submit", "fetch", "--", "--help")
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    environment = {**fer.environment, "RAY_ADDRESS": f"127.0.0.1:{cluster.port}", "RAY_AUTH_MODE": "token"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert f"worker: {SECRET}" in done.stdout, done.stderr
    time.sleep(1)  # logs are written
    logs = Path(f"/tmp/ray-{cluster.port}/session_latest/logs")
    files = [file for file in logs.rglob("*.*") if file.is_file()]
    assert len(files) > 5
    assert [file.name for file in files if SECRET in file.read_text(errors="replace")] == []


@pytest.fixture(scope="module")
def waiting_job(cluster: RunningCluster) -> Iterator[tuple[int, str]]:
    """A job that waits for nodes, submitted by a command that got Ctrl-C; that command's exit code and last words."""
    fer = cluster.fer
    write_faces(cluster.home / "faces", per_class=1, size=48)
    with fer.running("submit", "train", "--", "--data", "faces", "--workers", "9", "--name", "waits") as submitted:
        assert any("waiting 600 s at most" in line for line in submitted.stdout)
        submitted.send_signal(signal.SIGINT)
        _, errors = submitted.communicate(timeout=200)
    yield submitted.returncode, errors
    assert "checkpoints stay" in fer("jobs", "stop", "waits").stdout


def test_ctrl_c_leaves_a_job_running(cluster: RunningCluster, waiting_job: tuple[int, str]) -> None:
    assert waiting_job == (130, "\nwaits goes on; its log: fer jobs logs waits; to stop it: fer jobs stop waits\n")
    assert re.search(r"waits .* train .* running", cluster.fer("jobs", "list").stdout)


@pytest.mark.usefixtures("waiting_job")
def test_a_lost_connection_leaves_a_job_running(cluster: RunningCluster) -> None:
    with (
        relayed(cluster.fer.environment["RAY_API_SERVER_ADDRESS"]) as (address, cut),
        cluster.fer.running("jobs", "logs", "waits", "--address", address) as follower,
    ):
        assert any("waiting 600 s at most" in line for line in follower.stdout)
        cut()
        _, errors = follower.communicate(timeout=200)
    assert follower.returncode == 130
    assert errors == "\nlost the connection; waits goes on. Its log, once it is back: fer jobs logs waits\n"
    assert "running" in cluster.fer("jobs", "list").stdout


@pytest.mark.usefixtures("waiting_job")
def test_jobs_are_listed_after_a_node_has_ended(cluster: RunningCluster) -> None:
    fer = Fer(cluster.home, **cluster.fer.environment | {"XDG_STATE_HOME": str(cluster.home / "state of a worker")})
    joined = fer("cluster", "start", "--join", f"127.0.0.1:{cluster.port}", "--cpus", "0")
    assert joined.returncode == 0, joined.stderr
    assert fer("cluster", "stop").stdout == "Stopped.\n"
    until(lambda: "dead" in fer("cluster", "status").stdout, seconds=60)
    assert re.search(r"waits .* train .* running", fer("jobs", "list").stdout)


@pytest.mark.usefixtures("waiting_job")  # a worker
def test_without_the_token_nothing_answers(cluster: RunningCluster) -> None:
    token = (cluster.home / ".ray" / "auth_token").read_text()
    until(lambda: set(RUN_CODE) <= set(listening_addresses(cluster.home)))
    listening = listening_addresses(cluster.home)
    for process, endpoints in RUN_CODE.items():
        for endpoint in endpoints:
            answers = [ask(listening[process], endpoint, given) for given in (None, "f" * 64)]
            assert answers == ["refused", "refused"], (process, endpoint)
    for process, endpoints in READ.items():
        for endpoint in endpoints:
            answers = [ask(listening[process], endpoint, given) for given in (None, "f" * 64, token)]
            assert answers == ["refused", "refused", "answered"], (process, endpoint)


@contextmanager
def relayed(url: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Another URL for a server, and a function that cuts all connections through it."""
    parts = urlsplit(url)
    listener = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = [listener]

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((parts.hostname, parts.port))
                sockets.extend([client, server])
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=forward, args=(one, other), daemon=True).start()

    def forward(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut() -> None:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", cut
    cut()


def listening_addresses(home: Path) -> dict[str, list[tuple[str, int]]]:
    """Where the processes of the cluster listen, by the names in the tables above."""
    record = json.loads((home / "state" / "ferry" / "cluster.json").read_text())
    found: dict[str, list[tuple[str, int]]] = {}
    for process in psutil.Process(record["pid"]).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            words = process.cmdline()[:4]
            name = next((name for name in RUN_CODE if any(name in word for word in words)), "others")
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    found.setdefault(name, []).append((each.laddr.ip, each.laddr.port))
    return found


def ask(addresses: list[tuple[str, int]], endpoint: str, token: str | None) -> str:
    """Whether any address has "answered", or else any "refused" it; "unknown" if none knows the endpoint."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    ask_one = ask_http if " " in endpoint else ask_grpc
    answers = {ask_one(host, port, endpoint, headers) for host, port in addresses}
    return next((each for each in ("answered", "refused") if each in answers), "unknown")


def ask_http(host: str, port: int, endpoint: str, headers: dict[str, str]) -> str:
    method, path = endpoint.split()
    connection = HTTPConnection(host.removeprefix("::ffff:").replace("::", "127.0.0.1"), port, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        status, body = (response := connection.getresponse()).status, response.read(100)
    except (OSError, HTTPException):  # such as a gRPC server
        return "unknown"
    finally:
        connection.close()
    if status in (401, 403):
        return "refused"
    return "unknown" if status == 405 or body.startswith(b"# HELP") else "answered"


def ask_grpc(host: str, port: int, endpoint: str, headers: dict[str, str]) -> str:
    import grpc

    metadata = [(name.lower(), value) for name, value in headers.items()]
    address = host.removeprefix("::ffff:").replace("::", "127.0.0.1")
    with grpc.insecure_channel(f"{address}:{port}") as channel:
        call = channel.unary_unary(f"/{endpoint}")
        try:
            call(b"", metadata=metadata, timeout=60)
        except grpc.RpcError as error:
            unknown = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE)
            if error.code() in unknown:
                return "unknown"
            return "refused" if error.code() == grpc.StatusCode.UNAUTHENTICATED else "answered"
    return "answered"
