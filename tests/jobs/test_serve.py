"""`fer serve` as a process of its own: HTTPS, a killed server, and a second start."""

from __future__ import annotations

import json
import math
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from cluster.ports import free_port
from fer.errors import UserError
from fer.options import parse
from jobs.serve import start
from serve_apps.applications import App, chosen_apps
from serve_apps.live.options import LiveConfig
from serve_apps.options import ServeConfig
from serve_apps.server import use_certificate
from tests.processes import environment, running
from tests.waiting import until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(folder / "key"), "-out", str(folder / "crt")),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    certificate = folder / "both & more.pem"  # a name that other programs would have to quote
    certificate.write_bytes((folder / "crt").read_bytes() + (folder / "key").read_bytes())
    return certificate


@contextmanager
def server(port: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A server of `ferry-small` once it is ready; killed at the end if it still runs."""
    command = [sys.executable, "-m", "jobs", "serve", "--apps", "classifier", "--min-replicas", "1"]
    with running(
        [*command, "--port", str(port), *options], env=environment(PYTHONPATH=str(ROOT)), cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        lines = []
        while not (lines and lines[-1].startswith("Serving at")):
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)
        assert not [line for line in lines if "INFO" in line or "WARN" in line or "Traceback" in line], lines
        yield process


@pytest.mark.faults
@pytest.mark.slow
def test_a_killed_server_frees_its_port_and_a_second_one_stops_cleanly(certificate: Path, tmp_path: Path) -> None:
    port = free_port()
    image = tmp_path / "face.jpg"
    Image.linear_gradient("L").save(image)
    with server(port, "--tls-certificate", str(certificate)) as process:
        answer = httpx.get(f"https://localhost:{port}/healthz", verify=str(certificate), timeout=60)  # type: ignore[arg-type]
        assert answer.json()["model"]["name"] == "ferry-small"
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://localhost:{port}/healthz", timeout=60)
        process.send_signal(signal.SIGKILL)
    until_closed(port)

    with server(port, "--log-format", "json", "--metrics-port", str(metrics := free_port())) as process:
        assert "ray_" in httpx.get(f"http://127.0.0.1:{metrics}/metrics", timeout=60).text
        go_away(port)
        body = image.read_bytes()
        answers = [
            httpx.post(url, content=body, headers={"Content-Type": "image/jpeg"}, timeout=60)
            for url in [f"http://localhost:{port}/v1/predict"] * 3
        ]
        assert [answer.status_code for answer in answers] == [200] * 3
        killed, statuses = haproxies(process), Counter[int]()
        sockets = [each for haproxy in killed for each in haproxy.net_connections("tcp")]
        listening = {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}
        assert listening == {port}, "HAProxy's statistics and metrics are closed"
        for haproxy in killed:
            haproxy.kill()
        until(lambda: all(map(has_ended, killed)))
        replaced = math.inf
        while time.monotonic() < replaced + 3:  # in which the new one learns of the applications
            statuses[httpx.get(f"http://localhost:{port}/healthz", timeout=60).status_code] += 1
            if replaced == math.inf and haproxies(process) - killed:
                replaced = time.monotonic()
        assert set(statuses) == {200}, "the second HAProxy takes all"
        assert is_open(port)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
        assert "Traceback" not in output
        entries = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        found = [(entry["status"], entry.get("model")) for entry in entries if entry["route"] == "/v1/predict"]
        assert sorted(found) == [(200, "ferry-small")] * 3 + [(499, None)]
    until_closed(port)


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def haproxies(process: subprocess.Popen[str]) -> set[psutil.Process]:
    """A server's HAProxies, without the second one."""
    found = set()
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if any(word.endswith("/haproxy.cfg") for word in child.cmdline()):
                found.add(child)
    return found


def go_away(port: int) -> None:
    """Send a part of a request, and close the connection."""
    head = (
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 9000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + bytes(1_000_000))


def until_closed(port: int) -> None:
    until(lambda: not is_open(port))  # HAProxy does not survive its server


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_file_without_a_certificate_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "empty.pem").write_text("")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(UserError, match=f"{name} has no certificate"):
            use_certificate(str(tmp_path / name))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    with pytest.raises(UserError, match="needs a Ray of this command"):
        use_certificate(str(tmp_path / "empty.pem"))


def serve_config(folder: Path, text: str) -> str:
    (folder / "serve.yaml").write_text(text)
    return str(folder / "serve.yaml")


def test_applications_of_a_serve_config() -> None:
    config = parse(ServeConfig, ["--file", str(ROOT / "serve_apps/config/local.yaml"), "--apps", "classifier"], "serve")
    (app,) = chosen_apps(config)
    assert (app.name, app.route_prefix) == ("classifier", "/")
    assert app.args.model.endswith("ferry-small")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("applications: [", "is not YAML"),
        ("applications: 3", "is not a Serve config"),
        ("applications: [{name: a, import_path: 'serve_apps.nothing:build_app'}]", "cannot be imported"),
        (
            "applications: [{name: a, import_path: 'serve_apps.classifier.app:build_app', args: {nothing: m}}]",
            "application a: .*unknown option --nothing",
        ),
        ("applications: [{name: b, import_path: 'serve_apps.classifier.app:build_app'}]", "no application a; it has b"),
    ],
)
def test_a_serve_config_with_a_mistake_is_a_user_error(tmp_path: Path, text: str, message: str) -> None:
    names = ["--apps", "a"] if "no application a" in message else []
    config = parse(ServeConfig, ["--file", serve_config(tmp_path, text), *names], "serve")
    with pytest.raises(UserError, match=message):
        chosen_apps(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--apps", "vlm"], "--apps vlm: --model is required"),
        (["--apps", "vlm", "--model", "tiny:qwen2.5-vl", "--min-replicas", "2"], "vlm: --max-replicas 1 is below"),
        (["--apps", "tests.jobs.test_serve:serve_config"], "a function of one parameter, `args`"),
        (["--apps", "tests.jobs.test_serve:ROOT"], "a function of one parameter, `args`"),
    ],
)
def test_an_application_that_lacks_something_is_a_user_error(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen_apps(parse(ServeConfig, options, "serve"))


@pytest.mark.parametrize(
    ("step", "error", "removes"),
    [
        ("start_serve", UserError("the cluster serves an application face already"), False),
        ("deploy", KeyboardInterrupt(), True),
        ("deploy", SystemExit(signal.SIGTERM), True),
        ("deploy", RuntimeError("a replica could not start"), True),
    ],
)
def test_a_start_that_fails_on_a_cluster_leaves_no_application(
    step: str, error: BaseException, removes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    removed: list[App] = []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr("cluster.local.connect", lambda **_: None)
    monkeypatch.setattr("cluster.local.is_local", lambda: False)
    monkeypatch.setattr("serve_apps.server.start_serve", lambda *_: None)
    monkeypatch.setattr(f"serve_apps.server.{step}", fail)
    monkeypatch.setattr("jobs.serve.remove", removed.extend)
    apps = [App("face", "/", lambda args: None, LiveConfig())]  # type: ignore[arg-type, list-item, return-value]
    with pytest.raises(type(error)):
        start(apps, ServeConfig())
    assert removed == (apps if removes else [])
