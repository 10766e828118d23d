"""Ray Serve on a cluster: starting it, deploying applications, and its address."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

from fer.errors import UserError
from serve_apps.applications import App
from serve_apps.options import LimitOptions

ROUTES_SECONDS = 180
QUIET = {"log_level": "WARNING", "enable_access_log": False}


def start_serve(host: str, port: int, names: Sequence[str]) -> None:
    """Start Serve for applications with these names, unless it runs on the cluster already.

    Raises UserError if it listens on another address, or has an application of the same name.
    """
    from ray import serve
    from ray.serve.context import _get_global_client

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    running = _get_global_client(raise_if_no_controller_running=False)
    if running is None:
        check_port(host, port)
        serve.start(http_options={"host": host, "port": port}, logging_config={"log_level": "ERROR"})
        return
    address = running.http_config.host, running.http_config.port
    if address != (host, port):
        raise UserError(
            f"Serve on this cluster listens on {address[0]} port {address[1]}; "
            f"use --host {address[0]} --port {address[1]}"
        )
    if taken := set(serve.status().applications) & set(names):
        raise UserError(f"the cluster serves an application {', '.join(sorted(taken))} already; stop it first")


def deploy(apps: Sequence[App], token: str | None) -> None:
    """Deploy applications on the cluster's Serve; return when they are ready."""
    from ray import serve

    serve.run_many(
        [
            serve.RunTarget(
                app.build(app.args.model_copy(update={"token": app.args.token or token})),
                name=app.name,
                route_prefix=app.route_prefix,
                logging_config=QUIET,
            )
            for app in apps
        ]
    )


def wait_for_routes(url: str, routes: Sequence[str]) -> None:
    """Wait until the proxy knows the applications: it learns of them a moment after they are ready."""
    deadline = time.monotonic() + ROUTES_SECONDS
    context = ssl._create_unverified_context()  # this machine's own server, whose certificate names other hosts
    known: dict[str, str] = {}
    while not set(routes) <= set(known):
        if time.monotonic() > deadline:
            raise UserError(f"the proxy at {url} does not know {', '.join(routes)} after {ROUTES_SECONDS} s")
        with suppress(OSError), urlopen(f"{url}/-/routes", timeout=5, context=context) as response:
            known = json.load(response)
        time.sleep(0.1)


def use_certificate(file: str | None) -> None:
    """Let HAProxy, which this process is about to start with Ray, speak HTTPS; or plain HTTP without a file.

    Raises UserError for a file without a certificate and its key, on a cluster, and where there is no HAProxy.
    """
    os.environ.pop("FERRY_TLS_CERTIFICATE", None)  # that of an earlier server of this process
    if file is None:
        return
    if os.environ.get("RAY_ADDRESS") or sys.platform != "linux":
        raise UserError("--tls-certificate needs a Ray of this command on Linux; elsewhere, put a TLS proxy in front")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(file)
    except OSError as error:
        raise UserError(f"{file} has no certificate with its private key: {error.strerror or error}") from None
    os.environ["FERRY_TLS_CERTIFICATE"] = str(Path(file).absolute())


def limit_uploads(apps: Sequence[App]) -> None:
    """Let HAProxy, which this process is about to start with Ray, wait for a request as long as the applications do."""
    limits = [app.args.max_upload_seconds for app in apps if isinstance(app.args, LimitOptions)]
    if limits:
        os.environ["FERRY_UPLOAD_SECONDS"] = str(math.ceil(max(limits)))


def check_port(host: str, port: int) -> None:
    """Raise UserError if another program listens on the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"can't listen on {host} port {port}: {error.strerror}; choose another --port") from None
