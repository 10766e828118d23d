"""A Ray cluster that outlives the command that starts it: `fer cluster start`, `stop` and `status`.

One Ray node for each machine, in a session of its own. To use the cluster takes the token that `start` makes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
from pydantic import Field

from cluster.ports import free_port
from cluster.serve import serve_ports, serve_settings
from cluster.token import TOKEN, make_token
from fer.errors import UserError
from fer.options import Options

STATE = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ferry"
PORT, CLIENT_PORT = 6379, 10001
"""Ray's defaults for the head, and for Ray Client."""
START_SECONDS = 180
STOP_SECONDS = 60
"""A node drains for up to 30 seconds."""


class StartConfig(Options):
    """Start Ray on this machine, as the head of a cluster or, with --join, as one of its workers."""

    join: str | None = Field(None, description="Address of a head, HOST:PORT, to join; unset: start a head")
    host: str = Field(
        "127.0.0.1", description="Address of this machine for the other nodes, and of the dashboard; loopback: none"
    )
    port: int = Field(PORT, ge=1, le=65535, description="Port of the head")
    dashboard_port: int = Field(8265, ge=1, le=65535, description="Port of the dashboard and the job server")
    cpus: int | None = Field(None, ge=0, description="CPUs that the node offers; unset: all")
    gpus: int | None = Field(None, ge=0, description="GPUs that the node offers; unset: all")
    labels: dict[str, str] = Field({}, description="Labels of the node, such as role=trainer, that jobs can ask for")


def start(config: StartConfig) -> str:
    """Start a node, which goes on after this process; return what to do next.

    Raises UserError if one runs already, if it does not start, and, to join, without the head's token.
    """
    if running := _running():
        raise UserError(f"a node of this user runs already (process {running.pid}); `fer cluster stop` ends it")
    make_token() if config.join is None else require_token()
    STATE.mkdir(parents=True, exist_ok=True)
    log = STATE / "cluster.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command(config), env=node_environment(config), stdout=output, stderr=output, start_new_session=True
        )
    url = f"http://{config.host}:{config.dashboard_port}"
    try:
        record = {"pid": process.pid, "started": psutil.Process(process.pid).create_time(), "dashboard": url}
        (STATE / "cluster.json").write_text(json.dumps(record))  # first, so that `stop` finds it in any case
        _wait(config, process, log)
    except BaseException:  # Ctrl-C too
        process.terminate()
        raise
    if config.join:
        return f"Joined {config.join}. `fer cluster stop` leaves it again."
    return (
        f"A cluster runs at {config.host}:{config.port}; dashboard: {url} (its token: ray get-auth-token).\n"
        f"Jobs:       fer submit train --address {url} -- --data ...\n"
        f"Interactive: RAY_AUTH_MODE=token RAY_ADDRESS={config.host}:{config.port} fer train ...\n"
        f"More nodes: copy {TOKEN} there, then fer cluster start --join {config.host}:{config.port} --host ADDRESS"
    )


def stop() -> bool:
    """End this machine's node; whether there was one. Other Rays on the machine go on."""
    process = _running()
    if process is None:
        return False
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except psutil.TimeoutExpired:
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    (STATE / "cluster.json").unlink(missing_ok=True)
    return True


def command(config: StartConfig) -> list[str]:
    """`ray start`, in the foreground: the node ends with it."""
    role = ["--address", config.join] if config.join else ["--head", "--port", str(config.port)]
    if not config.join:
        role += ["--dashboard-host", config.host, "--dashboard-port", str(config.dashboard_port)]
        # A job runs on the cluster that its node's folder names: the last one started with that folder.
        role += ["--temp-dir", f"/tmp/ray-{config.port}"]
        role += ["--ray-client-server-port", str(CLIENT_PORT if config.port == PORT else free_port())]
    limits = [("--num-cpus", config.cpus), ("--num-gpus", config.gpus)]
    offered = [word for flag, number in limits if number is not None for word in (flag, str(number))]
    if config.labels:
        offered += ["--labels", ",".join(f"{name}={value}" for name, value in config.labels.items())]
    ray = str(Path(sys.executable).with_name("ray"))
    # Ray's defaults are the same for all clusters of a machine. Without its port, a node takes no jobs.
    ports = ["--min-worker-port", "0", "--max-worker-port", "0", "--dashboard-agent-listen-port", str(free_port())]
    return [
        *(ray, "start", *role, "--node-ip-address", config.host, *offered, *ports),
        *("--block", "--disable-usage-stats"),
    ]


def node_environment(config: StartConfig) -> dict[str, str]:
    """What the node's processes get: token authentication, Serve's settings, and no job's variables.

    At its usual level, Ray's agent would log the environment variables of jobs, which hold credentials.
    """
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"  # jobs run `python`
    # A worker that leaves finishes its requests (Ray's default: 30 s at most). With the head, all of them end.
    head = {} if config.join else {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"} | serve_ports()
    settings = {"RAY_AUTH_MODE": "token", "RAY_LOGGER_LEVEL": "warning", "PATH": path}
    return own | serve_settings() | head | settings


def require_token() -> None:
    """Raise UserError if this machine lacks the cluster's token."""
    if not os.environ.get("RAY_AUTH_TOKEN") and not TOKEN.is_file():
        raise UserError(f"--join needs the head's token: copy its {TOKEN} to this machine, or set RAY_AUTH_TOKEN")


def _record() -> dict[str, Any]:
    try:
        return dict(json.loads((STATE / "cluster.json").read_text()))
    except FileNotFoundError:
        return {}


def _running() -> psutil.Process | None:
    """The process of this machine's node; None if it ended."""
    record = _record()
    try:
        process = psutil.Process(record["pid"])
    except (KeyError, psutil.NoSuchProcess):
        return None
    same = abs(process.create_time() - record["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    return process if same else None


def _wait(config: StartConfig, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the dashboard of a head answers, or a worker says that it has joined. Raises UserError if not."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            lines = [line for line in log.read_text().splitlines() if line.strip()]
            raise UserError(f"Ray did not start: {lines[-1].strip() if lines else 'no output'} (its output: {log})")
        if config.join and "Ray runtime started" in log.read_text():
            return
        if not config.join and _answers(f"http://{config.host}:{config.dashboard_port}/api/version"):
            return
        time.sleep(0.2)


def _answers(url: str) -> bool:
    """Whether a server answers, if only to ask for the token."""
    try:
        urlopen(url, timeout=5).close()
    except HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return True
