"""`fer serve`: serve models over HTTP, with a page to try them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cluster.serve import import_serve
from serve_apps.options import ServeConfig as Config
from serve_apps.options import ServerOptions

if TYPE_CHECKING:
    from serve_apps.applications import App


def main(config: Config) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    import_serve()
    from fer.faces.detectors import HAAR_HINT
    from serve_apps.applications import chosen_apps

    apps = chosen_apps(config)
    with started(apps, config) as url:
        if config.detector == "auto" and any(getattr(app.args, "detector", "") == "haar" for app in apps):
            print(HAAR_HINT, file=sys.stderr)
        for app in apps:
            print(f"{app.name} at {url}{app.route_prefix}", f"({app.args.model})" if hasattr(app.args, "model") else "")
        if any(app.name == "classifier" for app in apps):
            print(f"Open {url} in a browser, or try: curl -F files=@face.jpg {url}/v1/predict")
        wait(url)


def start(apps: Sequence[App], config: ServerOptions) -> str:
    """Start applications on the cluster, or on an embedded Ray; return the server's URL once they are ready.

    If that fails, or is interrupted, a cluster does not keep the applications.
    Raises UserError if the port or an application's name is taken.
    """
    from cluster.local import connect, is_local, metrics_url
    from fer.cpus import cpu_count
    from fer.errors import UserError
    from serve_apps.access.auth import choose_token
    from serve_apps.applications import cpus_at_least, cpus_at_most
    from serve_apps.server import check_port, deploy, limit_uploads, start_serve, use_certificate, wait_for_routes

    if not os.environ.get("RAY_ADDRESS"):
        check_port(config.host, config.port)
    elif config.metrics_port:
        raise UserError(
            "--metrics-port needs a Ray of this command; on a cluster, `ray start` sets the port of each node"
        )
    use_certificate(config.tls_certificate)
    limit_uploads(apps)
    local_cpus = cpus_at_most(apps, replicas=cpu_count()) + 1
    connect(cpus=cpus_at_least(apps) + 1, local_cpus=local_cpus, serves=True, metrics_port=config.metrics_port)
    keys = any(app.args.api_keys for app in apps)
    token = config.token if keys else choose_token(config.token, config.host)
    url = f"{'https' if config.tls_certificate else 'http'}://{_url_host(config.host)}:{config.port}"
    start_serve(config.host, config.port, [app.name for app in apps])
    try:
        deploy(apps, token)
        if is_local():
            wait_for_routes(url, [app.route_prefix for app in apps])
        print(f"Metrics for Prometheus at {metrics_url()}")
        if token and not config.token:
            print(f"Token, for the header `Authorization: Bearer TOKEN` (not shown again): {token}")
    except BaseException:  # Ctrl-C too; and SIGTERM, of which Ray makes a SystemExit
        if not is_local():
            remove(apps)
        raise
    return url


@contextmanager
def printed_request_logs(apps: Sequence[App]) -> Iterator[None]:
    """Print the lines of --log-format that replicas on this machine write, while the ``with`` block runs."""
    from serve_apps.monitoring.request_log import log_folder, print_request_logs

    if not any(getattr(app.args, "log_format", None) for app in apps):
        yield
        return
    stop, folder = threading.Event(), log_folder()
    print(f"Requests are logged in {folder}")
    printer = threading.Thread(target=print_request_logs, args=(folder, sys.stdout, stop))
    printer.start()
    try:
        yield
    finally:
        stop.set()
        printer.join()


@contextmanager
def started(apps: Sequence[App], config: ServerOptions) -> Iterator[str]:
    """Applications in a ``with`` block, at whose end they stop after the requests in progress; their URL."""
    url = start(apps, config)
    with printed_request_logs(apps):
        try:
            yield url
        finally:  # also if nobody reads what is printed any more
            stop(apps)


@contextmanager
def running(config: Config) -> Iterator[str]:
    """A server in a ``with`` block; its URL."""
    import_serve()
    from serve_apps.applications import chosen_apps

    with started(chosen_apps(config), config) as url:
        yield url


def wait(url: str) -> None:
    """Return at Ctrl-C or SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    print(f"Serving at {url}; API documentation: {url}/docs. Ctrl-C stops the server.", flush=True)
    stopped.wait()
    print("Stopping, after the requests in progress.", flush=True)


def stop(apps: Sequence[App]) -> None:
    """Stop the applications, and an embedded Ray."""
    from cluster.local import disconnect

    remove(apps)
    disconnect()


def remove(apps: Sequence[App]) -> None:
    """Remove the applications after the requests in progress; stop a cluster's Serve too if it has no other one."""
    from ray import serve

    from cluster.local import is_local

    for app in apps:
        serve.delete(app.name)
    if not is_local() and not serve.status().applications:
        serve.shutdown()


def _url_host(host: str) -> str:
    """The host as part of a URL that works on this machine."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    from jobs.__main__ import run_job

    sys.exit(run_job("serve"))
