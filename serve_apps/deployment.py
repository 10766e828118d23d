"""What every application deploys: replicas of a model, each with an HTTP server of its own, that reload the model."""

# Annotations stay objects here: Serve ships the routes without this module's names, so strings could not be resolved.
import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import cv2
import ray
from fastapi import Request
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig

from fer.cpus import cpu_count
from fer.errors import UserError
from fer.models.folder import read_format
from fer.registry import resolve_model
from serve_apps.access.api_keys import ApiKey, Scope
from serve_apps.access.auth import Gate, accepted_keys
from serve_apps.monitoring.request_log import open_request_log
from serve_apps.options import ServerOptions
from serve_apps.reloadable_model import LoadModel, ReloadableModel
from serve_apps.responses import RETRY_AFTER_SECONDS
from serve_apps.schema import Health

IDLE_SECONDS = 600
"""Time without a request after which the last replica ends, with --min-replicas 0."""
MAX_REPLICAS = 8
"""Replicas on CPUs, at most, if their number is not given: each takes about 300 MB."""


class ModelReplica:
    """One replica of a model, and its HTTP server. ``user_config`` is ``{"model": REFERENCE}``: it reloads in place."""

    def __init__(self, config: ServerOptions, keys: list[ApiKey], load: LoadModel) -> None:
        cv2.setNumThreads(1)
        open_request_log(config)
        self.config, self.gate = config, Gate(keys)
        self.model = ReloadableModel(config.model, config, load)
        self.followed: list[Callable[[float], Coroutine[Any, Any, None]]] = [self.model.follow]
        """What follows the registry, given the seconds between two look-ups, from the first `reconfigure` on."""
        self.tasks: set[asyncio.Task[None]] = set()
        """Background work; the set keeps it from being collected."""
        self.started = time.monotonic()

    async def reconfigure(self, user_config: dict[str, str]) -> None:
        """Load the model of ``user_config``, and follow its alias from then on. Ray Serve calls it."""
        await asyncio.to_thread(self.model.switch, user_config["model"])
        if self.followed:
            self.start_task(self.gate.follow_replicas())
        while self.followed:
            self.start_task(self.followed.pop()(self.config.reload_seconds))

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in the background."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def admit(self, request: Request, scope: Scope) -> None:
        """Raise HTTPException if the client may not do this, or not now: 401, 403, 421 or 429."""
        self.gate.admit(request, scope)

    def report_health(self) -> Health[Any]:
        """The state of this replica."""
        uptime = time.monotonic() - self.started
        return Health(model=self.model.current.info, uptime_seconds=uptime, reload_error=self.model.error)


def bind_replicas(replica: serve.Deployment, config: ServerOptions, batch_size: int) -> Application:
    """Bind the replicas of a model, each of which computes ``batch_size`` requests at a time.

    The token is that of ``config``, else FER_SERVE_TOKEN; replicas get the digests of it and of the API keys. Raises
    UserError if GPUs are required and the cluster has none, and if other machines can reach the server and there is
    neither a token nor a key.
    """
    keys = accepted_keys(config.token, config.api_keys)
    config = config.model_copy(update={"token": None})
    ongoing = 2 * batch_size  # requests in a replica: while one batch is computed, the next one gathers
    gpus = _gpus_per_replica(config)
    least, most = replica_range(config, gpus)
    deployment = replica.options(
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": gpus},
        autoscaling_config=autoscaling(least, most, batch_size),
        max_ongoing_requests=ongoing,
        max_queued_requests=config.max_queued_requests,
        backpressure_config=BackpressureConfig(retry_after_s=RETRY_AFTER_SECONDS),
        user_config={"model": config.model},
    )
    return deployment.bind(config, keys)


def replica_range(config: ServerOptions, gpus: float) -> tuple[int, int]:
    """The least and the most replicas. By default all that fit on GPUs, or one for each CPU up to `MAX_REPLICAS`."""
    if gpus:
        default = int(ray.cluster_resources()["GPU"]) * int(1 / gpus)  # Ray splits no replica between two
    else:
        spare = ray.cluster_resources().get("CPU", 0) - 1  # one is for the rest of the server
        default = min(MAX_REPLICAS, int(min(cpu_count(), spare) / config.cpus_per_replica))
    least = config.min_replicas
    if least is None:
        least = max(1, min(default, config.max_replicas or default))
    return least, max(config.max_replicas or default, least, 1)


def autoscaling(least: int, most: int, ongoing: float) -> dict[str, Any]:
    """How the number of replicas follows the load, with ``ongoing`` requests in each. One starts in any case."""
    return {
        "min_replicas": least,
        "initial_replicas": max(1, least),  # a mistake shows at the start, not in the first request
        "max_replicas": most,
        "target_ongoing_requests": ongoing,
        "downscale_to_zero_delay_s": IDLE_SECONDS,
    }


def _gpus_per_replica(config: ServerOptions) -> float:
    """Those of ``config`` if the cluster has any.

    With device "auto", a model that was exported computes on the CPU and takes none.
    """
    available = ray.cluster_resources().get("GPU", 0) > 0
    if config.device == "gpu" and not available:
        raise UserError("--device gpu: the cluster has no GPU; use --device cpu or auto")
    if config.device == "auto" and available:
        uses_gpu = read_format(resolve_model(config.model, config)) == "torch"
    else:
        uses_gpu = config.device == "gpu"
    return config.gpus_per_replica if uses_gpu else 0
