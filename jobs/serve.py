"""`fer serve`: answer requests over HTTP with a trained classifier."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fer.errors import UserError
from serve_apps.options import ServeConfig as Config
from serve_apps.options import ServerOptions

if TYPE_CHECKING:
    from ray.serve import Application

APP = "classifier"

C = TypeVar("C", bound=ServerOptions)


def main(config: Config) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    wait(start(config), APP)


def wait(url: str, name: str) -> None:
    """Let the application ``name`` answer at ``url`` until Ctrl-C or SIGTERM, then stop it."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    print(f"Ctrl-C stops the server. Interactive documentation: {url}/docs", flush=True)
    stop.wait()
    print("Stopping: requests under way are answered first.", flush=True)
    finish(name)


def start(config: Config) -> str:
    """Start the server on the cluster, or on an embedded Ray; return its URL when it answers.

    Raises UserError if there is no such model or detector, or if the port is taken.
    """
    from fer.faces import open_detector
    from serve_apps.options import APPS

    build_app = APPS.load(config.app)
    config = checked(config)
    open_detector(config.detector, Path(config.detector_model) if config.detector_model else None)
    detector = config.detector_model and str(Path(config.detector_model).absolute())
    config = config.model_copy(update={"detector_model": detector})
    form, path = ("-F files=@face.jpg", "/v1/predict") if config.app == "classifier" else ("", "/docs")
    return run(config, build_app, APP, form, path)


def run(config: C, build_app: Callable[[C, str | None, float], Application], name: str, form: str, path: str) -> str:
    """Start an application; return its URL when it answers. ``form`` and ``path`` are of an example request."""
    _check_port(config.host, config.port)

    import ray
    from ray import serve

    from cluster.local import connect
    from serve_apps.auth import choose_token

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    connect(cpus=config.min_replicas * config.cpus_per_replica + 1)
    gpus = 0 if config.device == "cpu" else int(ray.cluster_resources().get("GPU", 0) > 0)
    if config.device == "gpu" and not gpus:
        raise UserError("--device gpu: the cluster has no GPU; use --device cpu or auto")
    token = choose_token(config.token, config.host)
    serve.start(http_options={"host": config.host, "port": config.port}, logging_config={"log_level": "ERROR"})
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    serve.run(build_app(config, token, gpus), name=name, route_prefix="/", logging_config=quiet)
    url = f"http://{_shown(config.host)}:{config.port}"
    header = ""
    if token and not config.token:
        print(f"Token, shown only now: {token}")
    if token:
        header = " -H 'Authorization: Bearer TOKEN'"
    print(f"Serving {config.model} at {url}")
    print(f"Try: curl {form}{header} {url}{path}", flush=True)
    return url


def finish(name: str = APP) -> None:
    """Stop the server when it has answered the requests under way, and Ray where it was embedded."""
    import ray
    from ray import serve

    serve.delete(name)
    if os.environ.get("RAY_ADDRESS"):
        serve.shutdown()
    ray.shutdown()


def checked(config: C) -> C:
    """The config with absolute paths. A model that is not there is found out here, before Ray starts."""
    from fer.tracking import resolve_model, tracking_uri

    folder = resolve_model(config.model, config)
    registered = config.model.startswith(("models:/", "runs:/"))
    return config.model_copy(
        update={
            "model": config.model if registered else str(folder.absolute()),
            "tracking_uri": tracking_uri(config) if registered else config.tracking_uri,
            "out_dir": str(Path(config.out_dir).absolute()) if "://" not in config.out_dir else config.out_dir,
        }
    )


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"can't listen on {host} port {port}: {error.strerror}; choose another --port") from None


def _shown(host: str) -> str:
    """The host as it is written in a URL."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("serve"))
