"""HAProxy as cluster/haproxy.sh starts it for Ray Serve, in front of a server of the test's own."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from cluster.ports import free_port
from cluster.serve import HAPROXY, serve_settings
from tests.processes import running
from tests.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "FERRY_HAPROXY" not in serve_settings() or shutil.which("setpriv") is None,
        reason="HAProxy and setpriv are on Linux",
    ),
]

CONFIG = """
global
    stats socket {folder}/admin.sock mode 666 level admin expose-fd listeners
    tune.bufsize 131072
defaults
    mode http
    option httplog
    option abortonclose
    option redispatch 1
    retry-on conn-failure empty-response
    timeout connect 5s
    timeout client 60s
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
frontend http_frontend
    bind 127.0.0.1:{port}
    use_backend replicas if TRUE
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path not found"
backend replicas
    server one 127.0.0.1:{replica}
listen stats
  bind *:8404
"""
ENVIRONMENT = os.environ | serve_settings() | {"FERRY_UPLOAD_SECONDS": "3"}
USE_BACKEND = "    use_backend replicas if TRUE\n"
MANAGER = 'echo $$ >"$2.manager"; "$1" -db -f "$2" & wait; sleep 100'
RAY = 'echo $$ >"$2.ray"; sh -c "$0" manager "$1" "$2" & wait; sleep 100'


class Replica(BaseHTTPRequestHandler):
    """Answers with the headers that have reached it; at /full and /other with 503, at /dying at the second time."""

    died = 0

    def do_POST(self) -> None:
        if self.path == "/dying" and not Replica.died:
            Replica.died = len(self.rfile.read(int(self.headers["Content-Length"])))
            self.close_connection = True
        else:
            self.do_GET()

    def do_GET(self) -> None:
        self.send_response(503 if self.path in ("/full", "/other") else 200)
        if self.path == "/full":
            self.send_header("Retry-After", "7")
            self.send_header("X-Request-ID", "the request")
        self.send_header("Content-Type", "text/plain")
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def replica() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Replica) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


@pytest.fixture
def config(replica: ThreadingHTTPServer, tmp_path: Path) -> Iterator[Path]:
    """HAProxy's configuration, once it runs; beside it are files with the numbers of the processes."""
    port = free_port()
    (folder := tmp_path / "node").mkdir()
    config = folder / "haproxy.cfg"
    config.write_text(CONFIG.format(folder=folder, port=port, replica=replica.server_port))
    shutil.copy(config, tmp_path / "plain.cfg")
    (tmp_path / "port").write_text(str(port))
    with running(["sh", "-c", RAY, MANAGER, str(HAPROXY), str(config)], env=ENVIRONMENT, start_new_session=True):
        until(lambda: listeners(port) == 2)
        yield config
    until(lambda: not listeners(port))


def test_headers_that_control_serve_do_not_reach_a_replica(config: Path) -> None:
    _, headers, _ = get(
        config, "/", ("X-Request-Timeout-Seconds", b"inf"), ("Serve_Multiplexed-Model-Id", b"\xff"),
        ("X-Session-Id", b"1"), ("X-Request-Disconnect-Disabled", b"?1"), ("X-Request-ID", b"\xff"),
        ("X-Client-ID", b"me"),
    )  # fmt: skip
    assert set(headers) == {"host", "accept-encoding", "x-client-id", "x-forwarded-for"}
    assert get(config, "/", ("X-Request-ID", b"a-b.1"))[1]["x-request-id"] == "a-b.1"


def test_every_503_of_a_busy_server_is_json(config: Path, replica: ThreadingHTTPServer) -> None:
    status, body, answer = get(config, "/full")
    assert (status, answer["Retry-After"], answer["X-Request-ID"]) == (503, "7", "the request")
    assert "busy" in body["detail"]
    assert "detail" not in get(config, "/other")[1], "an answer of the application itself"
    replica.shutdown()
    replica.socket.close()
    status, body, answer = get(config, "/")
    assert (status, answer["Retry-After"]) == (503, "1")
    assert "no replica" in body["detail"]


def test_a_request_is_sent_to_another_replica_if_its_own_dies(config: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port(config), timeout=60)
    for path in ("/", "/dying"):  # a second request of a connection: HAProxy would close that without an answer
        connection.request("POST", path, b"x" * 10_000)
        response = connection.getresponse()
        assert response.status == 200
        response.read()
    assert Replica.died == 10_000
    connection.close()


def test_slow_requests_and_huge_headers_get_an_answer(config: Path) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
    huge = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"
    for sent, status, body in (
        (head, b"408", b""),
        (head + b"\r\nx", b"408", b'{"detail"'),
        (huge, b"431", b'{"detail"'),
    ):
        with socket.create_connection(("127.0.0.1", port(config)), timeout=60) as connection:
            connection.sendall(sent)
            answer = connection.recv(10_000)
        assert answer.split()[1] == status
        assert body in answer


def test_the_second_haproxy_takes_over_and_ends_with_ray(config: Path) -> None:
    os.kill(number(config, "first"), signal.SIGKILL)
    until(lambda: listeners(port(config)) == 1)
    assert {get(config, "/")[0] for _ in range(50)} == {200}
    wait_for_looks(config)  # it waits for Serve, which replaces the manager
    os.kill(number(config, "manager"), signal.SIGKILL)
    wait_for_looks(config)
    assert get(config, "/")[0] == 200
    os.kill(number(config, "ray"), signal.SIGKILL)
    until(lambda: not listeners(port(config)))
    until(lambda: not config.parent.exists())


def test_a_new_manager_lets_the_second_haproxy_answer_until_it_knows_the_applications(config: Path) -> None:
    second, old = number(config, "second"), number(config, "first")
    assert os.getpgid(second) != os.getpgid(old), "Ray ends the process group of the manager"
    os.kill(old, signal.SIGKILL)
    wait_for_looks(config)
    os.kill(number(config, "manager"), signal.SIGKILL)
    with manager(config, plain(config).replace(USE_BACKEND, "")):
        until(lambda: number(config, "first") != old)
        time.sleep(0.5)
        assert listeners(port(config)) == 1
        assert {get(config, "/")[0] for _ in range(20)} == {200}
        with manager(config, plain(config), "-sf", str(number(config, "first"))):
            until(lambda: listeners(port(config)) == 2 and not runs(second))
            assert {get(config, "/")[0] for _ in range(50)} == {200}


def test_without_an_application_the_answer_is_503(config: Path) -> None:
    old = number(config, "first"), number(config, "second")
    with manager(config, plain(config).replace(USE_BACKEND, ""), "-sf", str(old[0])):
        until(lambda: not any(map(runs, old)))
        answers = [get(config, "/") for _ in range(20)]
        assert {(status, body["detail"]) for status, body, _ in answers} == {
            (503, "no application is ready; try again")
        }


def test_the_second_haproxy_ends_when_serve_stops(config: Path) -> None:
    for process in ("first", "manager"):
        os.kill(number(config, process), signal.SIGKILL)
        time.sleep(0.2)  # the manager ends its HAProxy, and is then ended itself
    until(lambda: not listeners(port(config)))


def test_a_killed_second_haproxy_is_started_again(config: Path) -> None:
    os.kill(number(config, "second"), signal.SIGKILL)
    until(lambda: listeners(port(config)) == 1)
    until(lambda: listeners(port(config)) == 2)


@pytest.mark.parametrize("socket_is_there", [True, False])
def test_a_new_second_haproxy_replaces_the_old_one(config: Path, socket_is_there: bool) -> None:
    old = number(config, "second")
    if not socket_is_there:  # the old one can't hand its socket over, as while it starts
        config.with_name("second.sock").unlink()
    command = ["sh", str(HAPROXY.with_name("haproxy_second.sh")), str(config.parent), str(number(config, "manager"))]
    with running(command, env=ENVIRONMENT, start_new_session=True):
        until(lambda: not runs(old))
        until(lambda: listeners(port(config)) == 2)
        assert number(config, "second") != old
        assert {get(config, "/")[0] for _ in range(50)} == {200}


def test_haproxy_refuses_a_folder_of_another_user(config: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(config.parent)
    command = ["sh", str(HAPROXY), "-db", "-f", str(tmp_path / "link" / "node" / "haproxy.cfg")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is not this user's own folder" in done.stderr


@contextmanager
def manager(config: Path, text: str, *arguments: str) -> Iterator[None]:
    """A manager that starts HAProxy with this configuration."""
    config.write_text(text)
    command = ["sh", "-c", '"$@" & wait', "manager", str(HAPROXY), "-db", "-f", str(config), *arguments]
    with running(command, env=ENVIRONMENT, start_new_session=True):
        yield


def plain(config: Path) -> str:
    """The configuration before `haproxy.sh` has changed it."""
    return (config.parents[1] / "plain.cfg").read_text()


def number(config: Path, name: str) -> int:
    """A process: "ray", "manager", or the "first" or "second" HAProxy."""
    file = config.with_name(f"{name}.pid") if name in ("first", "second") else Path(f"{config}.{name}")
    until(file.read_text)  # while it is written, it is empty
    return int(file.read_text())


def wait_for_looks(config: Path) -> None:
    """Wait until the script with the second HAProxy has looked three times who else runs: it sleeps before each."""
    script = psutil.Process(number(config, "second")).parent()
    assert script is not None
    sleeps: set[int] = set()

    def look() -> bool:
        sleeps.update(child.pid for child in script.children())
        return len(sleeps) > 1 + 3 + 1  # HAProxy, and the sleep after the third look

    until(look)


def port(config: Path) -> int:
    return int((config.parents[1] / "port").read_text())


def get(config: Path, path: str, *headers: tuple[str, bytes]) -> tuple[int, dict, http.client.HTTPMessage]:
    """The status, the body, and the headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port(config), timeout=60)
    connection.putrequest("GET", path)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    return response.status, body, response.headers


def runs(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def listeners(port: int) -> int:
    """How many sockets listen on the port."""
    found = psutil.net_connections("tcp4")
    return sum(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in found)
