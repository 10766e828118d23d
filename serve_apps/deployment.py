"""What every application deploys: replicas of a model that reload it, and an HTTP ingress with the queues between."""

from __future__ import annotations

import asyncio

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig

from fer.errors import UserError
from serve_apps.auth import digest
from serve_apps.ingress import RETRY_AFTER_SECONDS
from serve_apps.options import ServerOptions
from serve_apps.reloadable_model import LoadModel, ReloadableModel
from serve_apps.schema import ModelInfo


class ModelReplica:
    """One replica of a model. ``user_config`` is ``{"model": REFERENCE}``: changing it reloads the model in place."""

    def __init__(self, config: ServerOptions, load: LoadModel) -> None:
        self.config = config
        self.model = ReloadableModel(config.model, config, load)
        self.following: asyncio.Task[None] | None = None

    async def reconfigure(self, user_config: dict[str, str]) -> None:
        """Load the model of ``user_config``, and follow its alias from then on. Ray Serve calls it."""
        await asyncio.to_thread(self.model.switch, user_config["model"])
        self.following = self.following or asyncio.create_task(self.model.follow(self.config.reload_seconds))

    async def health(self) -> tuple[ModelInfo, str | None]:
        """The model that is served, and why its newest version could not be loaded, if so."""
        return self.model.current.info, self.model.error


def build_application(
    replica: serve.Deployment, ingress: serve.Deployment, config: ServerOptions, batch_size: int
) -> Application:
    """Bind an ingress to the replicas of a model, each of which computes ``batch_size`` requests at a time.

    Only the ingress gets the token, as a digest. Raises UserError if GPUs are required and the cluster has none.
    """
    token_digest = digest(config.token) if config.token else None
    config = config.model_copy(update={"token": None})
    ongoing = 2 * batch_size  # requests in a replica: while one batch is computed, the next one gathers
    capacity = ongoing * config.max_replicas + config.max_queued_requests
    model = replica.options(
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": _gpus_per_replica(config.device)},
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": batch_size,
        },
        max_ongoing_requests=ongoing,
        max_queued_requests=config.max_queued_requests,
        user_config={"model": config.model},
    )
    http = ingress.options(
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=2 * capacity,  # more than the model's queue holds, so that it is the one that fills up
        max_queued_requests=capacity,
        backpressure_config=BackpressureConfig(retry_after_s=RETRY_AFTER_SECONDS),
    )
    return http.bind(model.bind(config), config, token_digest)


def _gpus_per_replica(device: str) -> int:
    available = ray.cluster_resources().get("GPU", 0) > 0
    if device == "gpu" and not available:
        raise UserError("--device gpu: the cluster has no GPU; use --device cpu or auto")
    return int(available and device != "cpu")
