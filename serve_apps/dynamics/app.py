"""The facial dynamics model as a Ray Serve application.

A frame with its baseline is scored directly; a video is turned into such frames first, one video at a time in each
replica. The scores are research scores, not a diagnosis, and every response says so.
"""

# Annotations stay objects here: Serve ships the routes without this module's names, so strings could not be resolved.
import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fastapi import HTTPException, Request, Response
from ray import serve
from ray.serve import Application

from fer.dynamics.scores import DISCLAIMER
from serve_apps.access.api_keys import ApiKey
from serve_apps.deployment import ModelReplica, bind_replicas
from serve_apps.options import DynamicsServeConfig
from serve_apps.request_parsing import DynamicsFrame, parse_dynamics
from serve_apps.responses import BINARY_FILE, ERROR_RESPONSES, new_api, request_body, to_json
from serve_apps.schema import DynamicsInfo, DynamicsRequest, DynamicsResponse, Health, InvalidInput

api = new_api("Ferry: facial dynamics", DISCLAIMER)


@serve.deployment
@serve.ingress(api)
class DynamicsReplica(ModelReplica):
    """One replica of the dynamics model."""

    config: DynamicsServeConfig

    def __init__(self, config: DynamicsServeConfig, keys: list[ApiKey]) -> None:
        from fer.dynamics.landmarker import open_landmarker
        from serve_apps.dynamics.inference import load_dynamics_model

        super().__init__(config, keys, partial(load_dynamics_model, config=config))
        self.landmarker = open_landmarker(config.landmarker) if config.landmarker else None
        # The landmarker is not thread-safe. A lock would be free while the video of a client that left is still read.
        self.video_thread = ThreadPoolExecutor(1, "video")

    async def predict(self, source: DynamicsFrame | bytes) -> DynamicsResponse | InvalidInput:
        """The scores of one frame, or of every frame of a video file's bytes."""
        from serve_apps.dynamics.inference import predict_frame, predict_video

        if isinstance(source, DynamicsFrame):
            return await asyncio.to_thread(predict_frame, source, self.model.current)
        assert self.landmarker is not None, "parse_dynamics rejects videos when there is no landmarker"
        predict = partial(predict_video, source, self.model.current, self.landmarker, self.config)
        return await asyncio.get_running_loop().run_in_executor(self.video_thread, predict)

    @api.post(
        "/v1/dynamics",
        responses={200: {"model": DynamicsResponse}, **ERROR_RESPONSES},
        openapi_extra=request_body(DynamicsRequest, "video", BINARY_FILE),
    )
    async def score(self, request: Request) -> Response:
        """Score facial movement and synkinesis of one frame, or of each frame of a short video."""
        self.admit(request, "dynamics")
        response = await self.predict(await parse_dynamics(request, self.config))
        if isinstance(response, InvalidInput):
            raise HTTPException(422, response.reason)
        return to_json(response)

    @api.get("/healthz")
    async def health(self) -> Health[DynamicsInfo]:
        """Return 200 if the model responds. Needs no token."""
        return self.report_health()


def build_app(args: DynamicsServeConfig) -> Application:
    """The application for ``args``; pass it to `ray.serve.run`, or deploy it with `serve deploy`."""
    return bind_replicas(DynamicsReplica, args, batch_size=1)  # type: ignore[arg-type]
