"""The scorer of facial dynamics as a Ray Serve application: an HTTP front, and copies of the model behind it.

A frame with its baseline is scored at once; a video is turned into such frames first, one video at a time in each copy.
They are research scores, not a diagnosis, and every answer says so.
"""

# Annotations stay objects here: Serve ships the routes without this module's names, so strings could not be resolved.
import asyncio
import time

from fastapi import FastAPI, HTTPException, Request
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle

from fer import __version__
from fer.dynamics.scores import NOTICE
from serve_apps.auth import check_token, digest
from serve_apps.handle import FILE, PROBLEMS, RETRY_SECONDS, ask, body
from serve_apps.options import DynamicsServeConfig
from serve_apps.request_parsing import DynamicsFrame, dynamics_input
from serve_apps.schema import DynamicsRequest, DynamicsScores, Problem, ScorerHealth, ScorerInfo, Unreadable

UNDER_WAY = 2  # requests in a copy of the model: one is computed, one has arrived


@serve.deployment
class Scorer:
    """One copy of the model. ``user_config`` is ``{"model": REFERENCE}``: changing it exchanges the model in place."""

    def __init__(self, config: DynamicsServeConfig) -> None:
        from fer.dynamics.landmarker import open_landmarker
        from serve_apps.dynamics_scoring import LiveScorer

        self.config = config
        self.landmarker = open_landmarker(config.landmarker) if config.landmarker else None
        self.live = LiveScorer(config)
        self.one_video = asyncio.Lock()  # the landmarker serves one thread
        self.following: asyncio.Task[None] | None = None

    async def reconfigure(self, user_config: dict[str, str]) -> None:
        await asyncio.to_thread(self.live.switch, user_config["model"])
        self.following = self.following or asyncio.create_task(self.live.follow(self.config.reload_seconds))

    async def score(self, sent: DynamicsFrame | bytes) -> DynamicsScores | Unreadable:
        """The scores of a frame, or of a video's frames."""
        from serve_apps.dynamics_scoring import answer_frame, answer_video

        if not isinstance(sent, bytes):
            return await asyncio.to_thread(answer_frame, sent, self.live.current)
        assert self.landmarker is not None, "the front refuses videos where there is none"
        async with self.one_video:
            return await asyncio.to_thread(answer_video, sent, self.live.current, self.landmarker, self.config)

    async def health(self) -> tuple[ScorerInfo, str | None]:
        """What is served, and why the newest version is not, where it is not."""
        return self.live.current.info, self.live.error


app = FastAPI(title="Ferry: facial dynamics", version=__version__, description=NOTICE)

BODY = body(DynamicsRequest, "video", FILE)


@serve.deployment
@serve.ingress(app)
class Front:
    """The HTTP interface."""

    def __init__(self, model: DeploymentHandle, config: DynamicsServeConfig, token_digest: bytes | None) -> None:
        self.model, self.config, self.token_digest = model, config, token_digest
        self.started = time.monotonic()

    @app.post("/v1/dynamics", responses=PROBLEMS, openapi_extra=BODY)
    async def dynamics(self, request: Request) -> DynamicsScores:
        """How far a face moves, and how much the wrong parts move with it: a frame, or each frame of a short video."""
        check_token(request, self.token_digest)
        answer = await ask(self.model, "score", await dynamics_input(request, self.config))
        if isinstance(answer, Unreadable):
            raise HTTPException(422, answer.reason)
        return answer

    @app.get("/healthz", responses={503: {"model": Problem}})
    async def health(self) -> ScorerHealth:
        """200 while the model answers. Needs no token."""
        info, error = await ask(self.model, "health")
        return ScorerHealth(model=info, uptime_seconds=time.monotonic() - self.started, reload_error=error)


def build_app(config: DynamicsServeConfig, token: str | None = None, gpus: float = 0) -> Application:
    """The application for ``config``; ``gpus`` are reserved for each copy of the model."""
    config = config.model_copy(update={"token": None})
    full_house = UNDER_WAY * config.max_replicas + config.max_queued_requests
    model = Scorer.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": gpus},
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": 1,
        },
        max_ongoing_requests=UNDER_WAY,
        max_queued_requests=config.max_queued_requests,
        user_config={"model": config.model},
    )
    front = Front.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=2 * full_house,  # so that it is the model's queue that fills first
        max_queued_requests=full_house,
        backpressure_config=BackpressureConfig(retry_after_s=RETRY_SECONDS),
    )
    return front.bind(model.bind(config), config, digest(token) if token else None)
