"""The facial dynamics model as a Ray Serve application.

A frame with its baseline is scored directly; a video is turned into such frames first, one video at a time in each
replica. The scores are research scores, not a diagnosis, and every response says so.
"""

# Annotations stay objects here: Serve ships the routes without this module's names, so strings could not be resolved.
import asyncio
from functools import partial

from fastapi import FastAPI, Request
from ray import serve
from ray.serve import Application

from fer import __version__
from fer.dynamics.scores import DISCLAIMER
from serve_apps.deployment import ModelReplica, build_application
from serve_apps.ingress import BINARY_FILE, ERROR_RESPONSES, HEALTH_RESPONSES, Ingress, request_body
from serve_apps.options import DynamicsServeConfig
from serve_apps.request_parsing import DynamicsFrame, parse_dynamics
from serve_apps.schema import DynamicsInfo, DynamicsRequest, DynamicsResponse, Health, InvalidInput


@serve.deployment
class DynamicsReplica(ModelReplica):
    """One replica of the dynamics model."""

    config: DynamicsServeConfig

    def __init__(self, config: DynamicsServeConfig) -> None:
        from fer.dynamics.landmarker import open_landmarker
        from serve_apps.dynamics_inference import load_dynamics_model

        super().__init__(config, partial(load_dynamics_model, config=config))
        self.landmarker = open_landmarker(config.landmarker) if config.landmarker else None
        self.video_lock = asyncio.Lock()  # the landmarker is not thread-safe

    async def predict(self, source: DynamicsFrame | bytes) -> DynamicsResponse | InvalidInput:
        """The scores of one frame, or of every frame of a video file's bytes."""
        from serve_apps.dynamics_inference import predict_frame, predict_video

        if isinstance(source, DynamicsFrame):
            return await asyncio.to_thread(predict_frame, source, self.model.current)
        assert self.landmarker is not None, "the ingress rejects videos when there is no landmarker"
        async with self.video_lock:
            return await asyncio.to_thread(predict_video, source, self.model.current, self.landmarker, self.config)


app = FastAPI(title="Ferry: facial dynamics", version=__version__, description=DISCLAIMER)


@serve.deployment
@serve.ingress(app)
class DynamicsIngress(Ingress):
    """The HTTP API of the dynamics model."""

    config: DynamicsServeConfig

    @app.post(
        "/v1/dynamics",
        responses=ERROR_RESPONSES,
        openapi_extra=request_body(DynamicsRequest, "video", BINARY_FILE),
    )
    async def predict(self, request: Request) -> DynamicsResponse:
        """Score facial movement and synkinesis of one frame, or of each frame of a short video."""
        self.authenticate(request)
        return await self.call("predict", await parse_dynamics(request, self.config))

    @app.get("/healthz", responses=HEALTH_RESPONSES)
    async def health(self) -> Health[DynamicsInfo]:
        """Return 200 if the model responds. Needs no token."""
        return await self.report_health()


def build_app(config: DynamicsServeConfig) -> Application:
    """The application for ``config``; pass it to `ray.serve.run`."""
    return build_application(DynamicsReplica, DynamicsIngress, config, batch_size=1)  # type: ignore[arg-type]
