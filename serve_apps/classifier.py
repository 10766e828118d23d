"""The expression classifier as a Ray Serve application: an HTTP front, and copies of the model behind it.

The front reads requests, refuses bad ones and sends encoded images on. A copy of the model decodes them, finds the
faces and scores them, several requests at once.
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
from serve_apps.auth import check_token, digest
from serve_apps.handle import FILE, PROBLEMS, RETRY_SECONDS, ask, body
from serve_apps.options import ServeConfig
from serve_apps.request_parsing import analyze_image, predict_images
from serve_apps.schema import (
    Analysis,
    AnalyzeRequest,
    Health,
    ModelInfo,
    ModelList,
    Prediction,
    PredictRequest,
    Problem,
    Unreadable,
    to_deepface,
)


@serve.deployment
class Classifier:
    """One copy of the model. ``user_config`` is ``{"model": REFERENCE}``: changing it exchanges the model in place."""

    def __init__(self, config: ServeConfig) -> None:
        from serve_apps.live_model import LiveModel
        from serve_apps.scoring import find_detector

        self.config = config
        self.detector = find_detector(config)
        self.live = LiveModel(config.model, config, config.device)
        self.following: asyncio.Task[None] | None = None
        self.predict.set_max_batch_size(config.max_batch_size)  # type: ignore[attr-defined]
        self.predict.set_batch_wait_timeout_s(config.batch_wait_ms / 1000)  # type: ignore[attr-defined]

    async def reconfigure(self, user_config: dict[str, str]) -> None:
        await asyncio.to_thread(self.live.switch, user_config["model"])
        self.following = self.following or asyncio.create_task(self.live.follow(self.config.reload_seconds))

    @serve.batch
    async def predict(self, requests: list[list[bytes]]) -> list[Prediction | Unreadable]:
        """Requests, each of some encoded images, to their answers; one version of the model answers all of them."""
        from serve_apps.scoring import answer

        return await asyncio.to_thread(answer, requests, self.live.current, self.detector, self.config)

    async def health(self) -> tuple[ModelInfo, str | None]:
        """What is served, and why the newest version is not, where it is not."""
        return self.live.current.info, self.live.error


app = FastAPI(title="Ferry", version=__version__, description="Facial expression recognition")

PREDICT_BODY = body(PredictRequest, "files", {"type": "array", "items": FILE})
ANALYZE_BODY = body(AnalyzeRequest, "img", FILE)


@serve.deployment
@serve.ingress(app)
class Front:
    """The HTTP interface."""

    def __init__(self, model: DeploymentHandle, config: ServeConfig, token_digest: bytes | None) -> None:
        self.model, self.config, self.token_digest = model, config, token_digest
        self.started = time.monotonic()

    @app.post("/v1/predict", responses=PROBLEMS, openapi_extra=PREDICT_BODY)
    async def predict(self, request: Request) -> Prediction:
        """The expression of each face in one or more images."""
        check_token(request, self.token_digest)
        return await self._predict(await predict_images(request, self.config))

    @app.post("/analyze", responses=PROBLEMS, openapi_extra=ANALYZE_BODY)
    async def analyze(self, request: Request) -> Analysis:
        """The same for one image, in the shape of DeepFace's API."""
        check_token(request, self.token_digest)
        prediction = await self._predict([await analyze_image(request, self.config)])
        if not prediction.model.labels:
            raise HTTPException(422, "this model gives valence and arousal only; ask /v1/predict")
        return to_deepface(prediction.images[0])

    @app.get("/v1/models", responses=PROBLEMS)
    async def models(self, request: Request) -> ModelList:
        """What is served."""
        check_token(request, self.token_digest)
        info, _ = await ask(self.model, "health")
        return ModelList(models=[info])

    @app.get("/healthz", responses={503: {"model": Problem}})
    async def health(self) -> Health:
        """200 while the model answers. Needs no token."""
        info, error = await ask(self.model, "health")
        return Health(model=info, uptime_seconds=time.monotonic() - self.started, reload_error=error)

    async def _predict(self, images: list[bytes]) -> Prediction:
        answer = await ask(self.model, "predict", images)
        if isinstance(answer, Unreadable):
            raise HTTPException(422, answer.reason)
        return answer


def build_app(config: ServeConfig, token: str | None = None, gpus: float = 0) -> Application:
    """The application for ``config``; ``gpus`` are reserved for each copy of the model."""
    config = config.model_copy(update={"token": None})
    full_house = 2 * config.max_batch_size * config.max_replicas + config.max_queued_requests
    model = Classifier.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": gpus},
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.max_batch_size,
        },
        max_ongoing_requests=2 * config.max_batch_size,  # the next batch gathers while one is computed
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
