"""Starting and stopping applications on a cluster's Serve, with the settings of their configs or of a Serve config."""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_type_hints
from urllib.request import urlopen

import yaml

from fer.errors import UserError
from fer.faces.options import FaceOptions
from fer.options import describe_errors
from fer.plugins import import_object
from serve_apps.options import APPS, DynamicsServeConfig, ServeConfig, ServerOptions
from serve_apps.vlm_options import VlmServeConfig

if TYPE_CHECKING:
    from ray.serve import Application

BuildApp = Callable[[Any], "Application"]
ROUTES_SECONDS = 60
QUIET = {"log_level": "WARNING", "enable_access_log": False}

C = TypeVar("C", bound=ServerOptions)


class App(NamedTuple):
    """An application to deploy."""

    name: str
    route_prefix: str
    build: BuildApp
    args: ServerOptions


def chosen_apps(config: ServeConfig) -> list[App]:
    """The applications of ``config``, with absolute paths. Raises UserError for what is missing, before Ray starts."""
    if config.file:
        return read_apps(Path(config.file), config.apps if "apps" in config.model_fields_set else None)
    apps = []
    for name in config.apps:
        build = APPS.load(name)
        kind = get_type_hints(build)["args"]
        shared = {field: getattr(config, field) for field in kind.model_fields if field in config.model_fields_set}
        apps.append(App(name, f"/{name}" if name in ("live", "vlm") else "/", build, ready_args(kind(**shared))))
    return apps


def read_apps(file: Path, names: Sequence[str] | None) -> list[App]:
    """The applications of a Serve config (as for `serve deploy`), or those of them with these names."""
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    try:
        schema = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text()))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise UserError(f"{file} is not a Serve config: {describe_errors(error)}") from None
    found = {app.name: app for app in schema.applications}
    if missing := set(names or ()) - set(found):
        raise UserError(f"{file} has no application {', '.join(sorted(missing))}; it has {', '.join(found)}")
    apps = []
    for app in (found[name] for name in names or found):
        build = import_object(app.import_path, f"import_path of {app.name}")
        kind = get_type_hints(build)["args"]
        try:
            args = kind(**app.args)
        except ValidationError as error:
            raise UserError(f"{file}, application {app.name}: {describe_errors(error)}") from None
        apps.append(App(app.name, app.route_prefix or "/", build, ready_args(args)))
    return apps


def ready_args(config: C) -> C:
    """The config with absolute paths and a detector. Raises UserError for a missing model, detector or landmarker."""
    if not isinstance(config, ServerOptions):  # that of `live`, which has no model
        return config
    if isinstance(config, VlmServeConfig):
        from serve_apps.vlm_models import fetch_models, pin_models

        config = pin_models(config)  # type: ignore[assignment]
        fetch_models(config)
        return config
    config = resolve_paths(config)
    if isinstance(config, FaceOptions):
        from fer.faces.detectors import choose_detector, open_detector

        config = choose_detector(config)
        open_detector(config)
    if isinstance(config, DynamicsServeConfig) and config.landmarker:
        from fer.dynamics.landmarker import open_landmarker

        open_landmarker(config.landmarker).close()
        config = config.model_copy(update={"landmarker": str(Path(config.landmarker).absolute())})
    return config


def resolve_paths(config: C) -> C:
    """The config with absolute paths. Raises UserError for a missing model."""
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


def deploy(apps: Sequence[App], host: str, port: int, token: str | None) -> None:
    """Deploy applications on the cluster's Serve, which is started if it does not run; return when they are ready.

    Raises UserError if Serve listens on another address, or has an application of the same name.
    """
    from ray import serve

    start_serve(host, port)
    taken = set(serve.status().applications) & {app.name for app in apps}
    if taken:
        raise UserError(f"the cluster serves an application {', '.join(sorted(taken))} already; stop it first")
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


def start_serve(host: str, port: int) -> None:
    """Start Serve, unless it runs on the cluster already. Raises UserError if it listens on another address."""
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


def use_certificate(file: str) -> None:
    """Let HAProxy, which this process is about to start with Ray, speak HTTPS.

    Raises UserError for a file without a certificate and its key, on a cluster, and where there is no HAProxy.
    """
    if os.environ.get("RAY_ADDRESS") or sys.platform != "linux":
        raise UserError("--tls-certificate needs a Ray of this command on Linux; elsewhere, put a TLS proxy in front")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(file)
    except OSError as error:
        raise UserError(f"{file} has no certificate with its private key: {error.strerror or error}") from None
    os.environ["FERRY_TLS_CERTIFICATE"] = str(Path(file).absolute())


def check_port(host: str, port: int) -> None:
    """Raise UserError if another program listens on the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"can't listen on {host} port {port}: {error.strerror}; choose another --port") from None


def cpus_needed(apps: Sequence[App]) -> float:
    """CPUs for the least number of replicas of each application."""
    models = [app.args for app in apps if isinstance(app.args, ServerOptions)]
    return sum((args.min_replicas or os.cpu_count() or 1) * args.cpus_per_replica for args in models)
