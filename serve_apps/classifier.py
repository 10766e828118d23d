"""The expression classifier as a Ray Serve application.

One deployment does it all: each replica takes requests, rejects bad ones, and decodes, detects and classifies the
others, several requests in one batch.
"""

# Annotations stay objects here: Serve ships the routes without this module's names, so strings could not be resolved.
import asyncio
import time
from functools import partial
from typing import Any

from fastapi import HTTPException, Request, Response
from ray import serve
from ray.serve import Application

from serve_apps.deepface import AnalyzeRequest, AnalyzeResponse, to_deepface
from serve_apps.deployment import ModelReplica, bind_replicas
from serve_apps.monitoring import ClassifierMetrics
from serve_apps.options import ServeConfig
from serve_apps.request_parsing import parse_analyze, parse_predict
from serve_apps.responses import BINARY_FILE, ERROR_RESPONSES, new_api, request_body, to_json
from serve_apps.schema import ClassifierInfo, Health, InvalidInput, ModelList, PredictRequest, PredictResponse

api = new_api("Ferry", "Facial expression recognition")

PREDICT = request_body(PredictRequest, "files", {"type": "array", "items": BINARY_FILE}, raw="image/*")
ANALYZE = request_body(AnalyzeRequest, "img", BINARY_FILE)


def responses(model: type) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model}, **ERROR_RESPONSES}


class Classifier(ModelReplica):
    """One replica of the classifier, without routes."""

    config: ServeConfig

    def __init__(self, config: ServeConfig, token_digest: bytes | None) -> None:
        from fer.faces.detectors import open_detector
        from serve_apps.classifier_inference import load_classifier

        super().__init__(config, token_digest, partial(load_classifier, device=config.device))
        self.detector = open_detector(config)
        self.metrics = ClassifierMetrics()
        self.predict_batch.set_max_batch_size(config.max_batch_size)  # type: ignore[attr-defined]
        self.predict_batch.set_batch_wait_timeout_s(config.batch_wait_ms / 1000)  # type: ignore[attr-defined]

    async def predict(self, images: list[bytes]) -> PredictResponse | InvalidInput:
        """The response for the encoded images of one request. Other applications call it through a handle."""
        started = time.perf_counter()
        response: PredictResponse | InvalidInput = await self.predict_batch(images)
        if isinstance(response, PredictResponse):
            spent = response.timing
            total = (time.perf_counter() - started) * 1000
            spent.waiting = max(0.0, total - spent.decoding - spent.detection - spent.model)
        return response

    @serve.batch
    async def predict_batch(self, requests: list[list[bytes]]) -> list[PredictResponse | InvalidInput]:
        """Requests to their responses, all from one version of the model."""
        from serve_apps.classifier_inference import predict_requests

        model = self.model.current
        responses = await asyncio.to_thread(predict_requests, requests, model, self.detector, self.config)
        self.metrics.record(responses, model.info.name, model.info.version)
        return responses

    async def predict_images(self, images: list[bytes]) -> PredictResponse:
        """The response for the images of one request. Raises HTTPException 422 for an image that is not valid."""
        response = await self.predict(images)
        if isinstance(response, InvalidInput):
            raise HTTPException(422, response.reason)
        return response


@serve.deployment
@serve.ingress(api)
class ClassifierReplica(Classifier):
    """One replica of the classifier with Ferry's and DeepFace's routes."""

    @api.post("/v1/predict", responses=responses(PredictResponse), openapi_extra=PREDICT)
    async def predict_request(self, request: Request) -> Response:
        """Classify the expression of each face in one or more images."""
        self.authenticate(request)
        return to_json(await self.predict_images(await parse_predict(request, self.config)))

    @api.post("/analyze", responses=responses(AnalyzeResponse), openapi_extra=ANALYZE)
    async def analyze(self, request: Request) -> Response:
        """Classify the expression of each face in one image. Request and response are those of DeepFace's API."""
        self.authenticate(request)
        response = await self.predict_images([await parse_analyze(request, self.config)])
        if not response.model.labels:
            raise HTTPException(422, "this model predicts valence and arousal only; use /v1/predict")
        return to_json(to_deepface(response.images[0]))

    @api.get("/v1/models", responses=ERROR_RESPONSES)
    async def models(self, request: Request) -> ModelList:
        """List the model that is served."""
        self.authenticate(request)
        return ModelList(models=[self.model.current.info])

    @api.get("/healthz")
    async def health(self) -> Health[ClassifierInfo]:
        """Return 200 if the model responds. Needs no token."""
        return self.report_health()


def build_app(args: ServeConfig) -> Application:
    """The application for ``args``; pass it to `ray.serve.run`, or deploy it with `serve deploy`."""
    return bind_replicas(ClassifierReplica, args, batch_size=args.max_batch_size)  # type: ignore[arg-type]
