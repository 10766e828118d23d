"""Which applications to serve, with what arguments: from the options of `fer serve`, or from a Serve config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import isclass, isfunction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_type_hints

from fer.errors import UserError
from fer.faces.options import FaceOptions
from fer.options import describe_errors, read_yaml
from fer.plugins import import_object
from serve_apps.access.api_keys import read_keys
from serve_apps.options import APPS, DynamicsServeConfig, KeyOptions, ServeConfig, ServerOptions
from serve_apps.vlm.options import VlmServeConfig

if TYPE_CHECKING:
    from ray.serve import Application

REGISTERED = ("models:/", "runs:/")

BuildApp = Callable[[Any], "Application"]

C = TypeVar("C", bound=KeyOptions)
S = TypeVar("S", bound=ServerOptions)


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
        kind = args_type(build, f"--apps {name}")
        shared = {field: getattr(config, field) for field in kind.model_fields if field in config.model_fields_set}
        args = ready_args(make_args(kind, shared, f"--apps {name}"))
        apps.append(App(name, f"/{name}" if name in ("live", "vlm") else "/", build, args))
    return apps


def read_apps(file: Path, names: Sequence[str] | None) -> list[App]:
    """The applications of a Serve config (as for `serve deploy`), or those of them with these names."""
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    try:
        schema = ServeDeploySchema.model_validate(read_yaml(file))
    except ValidationError as error:
        raise UserError(f"{file} is not a Serve config: {describe_errors(error)}") from None
    found = {app.name: app for app in schema.applications}
    if missing := set(names or ()) - set(found):
        raise UserError(f"{file} has no application {', '.join(sorted(missing))}; it has {', '.join(found)}")
    apps = []
    for app in (found[name] for name in names or found):
        build = import_object(app.import_path, f"import_path of {app.name}")
        source = f"{file}, application {app.name}"
        args = ready_args(make_args(args_type(build, source), app.args, source))
        apps.append(App(app.name, app.route_prefix or "/", build, args))
    return apps


def args_type(build: BuildApp, source: str) -> type[Any]:
    """The options of an application. Raises UserError if its function does not say them; ``source`` names it."""
    kind = get_type_hints(build).get("args") if isfunction(build) else None
    if not (isclass(kind) and issubclass(kind, KeyOptions)):
        raise UserError(f"{source}: write a function of one parameter, `args`, annotated as ServeConfig or the like")
    return kind


def make_args(kind: type[C], values: dict[str, Any], source: str) -> C:
    """The options with these values. Raises UserError for a mistake in them."""
    from pydantic import ValidationError

    try:
        return kind(**values)
    except ValidationError as error:
        raise UserError(f"{source}: {describe_errors(error)}") from None


def ready_args(config: C) -> C:
    """The config with absolute paths and a detector.

    Raises UserError for a missing model, detector or landmarker, and for a mistake in the file of API keys.
    """
    if config.api_keys:
        read_keys(Path(config.api_keys))
        config = config.model_copy(update={"api_keys": str(Path(config.api_keys).absolute())})
    if not isinstance(config, ServerOptions):  # that of `live`, which has no model
        return config
    if isinstance(config, VlmServeConfig):
        from serve_apps.vlm.models import fetch_models, pin_models

        config = pin_models(config)  # type: ignore[assignment]
        fetch_models(config)
        return config
    config = resolve_paths(config)
    if isinstance(config, FaceOptions):
        from fer.faces.detectors import choose_detector, open_detector

        if isinstance(config, ServeConfig):
            from serve_apps.classifier.inference import cut_as_in_training

            config = cut_as_in_training(config)
        config = choose_detector(config)
        open_detector(config)
    if isinstance(config, DynamicsServeConfig) and config.landmarker:
        from fer.dynamics.landmarker import open_landmarker

        open_landmarker(config.landmarker).close()
        config = config.model_copy(update={"landmarker": str(Path(config.landmarker).absolute())})
    return config


def resolve_paths(config: S) -> S:
    """The config with absolute paths. Raises UserError for a missing model, and for two of one name."""
    from fer.storage import absolute
    from fer.tracking import tracking_uri
    from serve_apps.classifier.named_models import by_name

    models: dict[str, Any] = {"model": _absolute(config.model, config)}
    references = [models["model"]]
    if isinstance(config, ServeConfig):
        models["models"] = [_absolute(reference, config) for reference in by_name(config.models).values()]
        models["challenger"] = _absolute(config.challenger, config) if config.challenger else None
        by_name([models["model"], *models["models"]])
        references += [*models["models"], models["challenger"] or ""]
    registered = any(reference.startswith(REGISTERED) for reference in references)
    return config.model_copy(
        update={
            **models,
            "tracking_uri": tracking_uri(config) if registered else config.tracking_uri,
            "storage": absolute(config.storage),
        }
    )


def _absolute(reference: str, config: ServerOptions) -> str:
    """The reference to a registered model, else the absolute path of its folder. Raises UserError if it is missing."""
    from fer.registry import locate_model
    from fer.storage import absolute

    model = locate_model(reference, config)
    return reference if reference.startswith(REGISTERED) else absolute(model)


def cpus_at_least(apps: Sequence[App]) -> float:
    """CPUs for the fewest replicas of each application; one starts in any case."""
    models = [app.args for app in apps if isinstance(app.args, ServerOptions)]
    return sum(max(1, args.min_replicas or 0) * args.cpus_per_replica for args in models)


def cpus_at_most(apps: Sequence[App], replicas: int) -> float:
    """CPUs for the most replicas of each application, which are ``replicas`` if not given."""
    models = [app.args for app in apps if isinstance(app.args, ServerOptions)]
    return sum(max(args.max_replicas or replicas, args.min_replicas or 0) * args.cpus_per_replica for args in models)
