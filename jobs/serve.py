"""`fer serve`: serve a trained classifier over HTTP."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fer.errors import UserError
from serve_apps.options import APPS, ServerOptions
from serve_apps.options import ServeConfig as Config

if TYPE_CHECKING:
    from ray.serve import Application

APP = "classifier"

C = TypeVar("C", bound=ServerOptions)


def main(config: Config) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    serve_until_stopped(start(config), APP)


def start(config: Config) -> str:
    """Start the server on the cluster, or on an embedded Ray; return its URL once it is ready.

    Raises UserError if there is no such model or detector, or if the port is taken.
    """
    from fer.faces.detectors import HAAR_HINT, choose_detector, open_detector

    chosen = choose_detector(resolve_paths(config))
    open_detector(chosen)
    example, path = ("-F files=@face.jpg", "/v1/predict") if config.app == "classifier" else ("", "/docs")
    url = start_app(APP, APPS.load(config.app), chosen, example, path)
    if chosen.detector == "haar" != config.detector:
        print(HAAR_HINT, file=sys.stderr)
    return url


def start_app(name: str, build_app: Callable[[C], Application], config: C, example: str, path: str) -> str:
    """Start an application; return its URL once it is ready. ``example`` is what curl sends to ``path``.

    Raises UserError if the port or the name is taken.
    """
    from cluster.local import connect
    from serve_apps.auth import choose_token

    if not os.environ.get("RAY_ADDRESS"):
        check_port(config.host, config.port)
    connect(cpus=(config.min_replicas or 1) * config.cpus_per_replica + 1)
    start_serve(config, name)

    from ray import serve

    token = choose_token(config.token, config.host)
    app = build_app(config.model_copy(update={"token": token}))
    serve.run(app, name=name, route_prefix="/", logging_config={"log_level": "WARNING", "enable_access_log": False})
    url = f"http://{_url_host(config.host)}:{config.port}"
    if token and not config.token:
        print(f"Token (not shown again): {token}")
    header = "-H 'Authorization: Bearer TOKEN'" if token else ""
    print(f"Serving {config.model} at {url}")
    print("Try:", *filter(None, ["curl", example, header, url + path]), flush=True)
    return url


def start_serve(config: ServerOptions, name: str) -> None:
    """Start Serve on the cluster, unless it runs there already.

    Raises UserError if it listens on another address, or has an application called ``name``.
    """
    from ray import serve
    from ray.serve.context import _get_global_client

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    running = _get_global_client(raise_if_no_controller_running=False)
    if running is None:
        check_port(config.host, config.port)
        serve.start(http_options={"host": config.host, "port": config.port}, logging_config={"log_level": "ERROR"})
        return
    host, port = running.http_config.host, running.http_config.port
    if (host, port) != (config.host, config.port):
        raise UserError(f"Serve on this cluster listens on {host} port {port}; use --host {host} --port {port}")
    if name in serve.status().applications:
        raise UserError(f"the cluster serves an application {name!r} already; stop it first")


def serve_until_stopped(url: str, name: str) -> None:
    """Keep the application ``name`` running until Ctrl-C or SIGTERM, then stop it."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    print(f"API documentation: {url}/docs. Ctrl-C stops the server.", flush=True)
    stopped.wait()
    print("Stopping, after the requests in progress.", flush=True)
    stop(name)


def stop(name: str = APP) -> None:
    """Stop the application after the requests in progress; Serve too if it has no other one, and an embedded Ray."""
    from ray import serve

    from cluster.local import disconnect, is_local

    serve.delete(name)
    if not is_local() and not serve.status().applications:
        serve.shutdown()
    disconnect()


def resolve_paths(config: C) -> C:
    """The config with absolute paths. Raises UserError for a missing model, before Ray starts."""
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


def check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"can't listen on {host} port {port}: {error.strerror}; choose another --port") from None


def _url_host(host: str) -> str:
    """The host as part of a URL that works on this machine."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    from jobs.__main__ import run_job

    sys.exit(run_job("serve"))
