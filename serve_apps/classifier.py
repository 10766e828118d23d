"""The expression classifier as a Ray Serve application.

The ingress parses requests, rejects bad ones and sends the encoded images on. A replica of the model decodes them,
finds the faces and classifies them, several requests in one batch.
"""

# Annotations stay objects here: Serve ships the routes without this module's names, so strings could not be resolved.
import asyncio
from functools import partial

from fastapi import FastAPI, HTTPException, Request
from ray import serve
from ray.serve import Application

from fer import __version__
from serve_apps.deepface import AnalyzeRequest, AnalyzeResponse, to_deepface
from serve_apps.deployment import ModelReplica, build_application
from serve_apps.ingress import BINARY_FILE, ERROR_RESPONSES, HEALTH_RESPONSES, Ingress, request_body
from serve_apps.options import ServeConfig
from serve_apps.request_parsing import parse_analyze, parse_predict
from serve_apps.schema import ClassifierInfo, Health, InvalidInput, ModelList, PredictRequest, PredictResponse


@serve.deployment
class ClassifierReplica(ModelReplica):
    """One replica of the classifier."""

    config: ServeConfig

    def __init__(self, config: ServeConfig) -> None:
        from fer.faces.detectors import open_detector
        from serve_apps.classifier_inference import load_classifier

        super().__init__(config, partial(load_classifier, device=config.device))
        self.detector = open_detector(config)
        self.predict.set_max_batch_size(config.max_batch_size)  # type: ignore[attr-defined]
        self.predict.set_batch_wait_timeout_s(config.batch_wait_ms / 1000)  # type: ignore[attr-defined]

    @serve.batch
    async def predict(self, requests: list[list[bytes]]) -> list[PredictResponse | InvalidInput]:
        """Requests, each of one or more encoded images, to their responses, all from one version of the model."""
        from serve_apps.classifier_inference import predict_requests

        return await asyncio.to_thread(predict_requests, requests, self.model.current, self.detector, self.config)


app = FastAPI(title="Ferry", version=__version__, description="Facial expression recognition")

PREDICT_BODY = request_body(PredictRequest, "files", {"type": "array", "items": BINARY_FILE})
ANALYZE_BODY = request_body(AnalyzeRequest, "img", BINARY_FILE)


@serve.deployment
@serve.ingress(app)
class ClassifierIngress(Ingress):
    """The HTTP API of the classifier."""

    @app.post("/v1/predict", responses=ERROR_RESPONSES, openapi_extra=PREDICT_BODY)
    async def predict(self, request: Request) -> PredictResponse:
        """Classify the expression of each face in one or more images."""
        self.authenticate(request)
        return await self.call("predict", await parse_predict(request, self.config))

    @app.post("/analyze", responses=ERROR_RESPONSES, openapi_extra=ANALYZE_BODY)
    async def analyze(self, request: Request) -> AnalyzeResponse:
        """Classify the expression of each face in one image. Request and response are those of DeepFace's API."""
        self.authenticate(request)
        prediction = await self.call("predict", [await parse_analyze(request, self.config)])
        if not prediction.model.labels:
            raise HTTPException(422, "this model predicts valence and arousal only; use /v1/predict")
        return to_deepface(prediction.images[0])

    @app.get("/v1/models", responses=ERROR_RESPONSES)
    async def models(self, request: Request) -> ModelList:
        """List the model that is served."""
        self.authenticate(request)
        info, _ = await self.call("health")
        return ModelList(models=[info])

    @app.get("/healthz", responses=HEALTH_RESPONSES)
    async def health(self) -> Health[ClassifierInfo]:
        """Return 200 if the model responds. Needs no token."""
        return await self.report_health()


def build_app(config: ServeConfig) -> Application:
    """The application for ``config``; pass it to `ray.serve.run`."""
    return build_application(ClassifierReplica, ClassifierIngress, config, batch_size=config.max_batch_size)  # type: ignore[arg-type]
