"""The expression classifier as a Ray Serve application: its routes.

One deployment does it all: each replica takes requests, rejects bad ones, and answers the others itself.
"""

# Annotations stay objects here: Serve ships the routes without this module's names, so strings could not be resolved.
import asyncio
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.responses import FileResponse
from ray import serve
from ray.serve import Application

from serve_apps.classifier.deepface import AnalyzeRequest, AnalyzeResponse, to_deepface
from serve_apps.classifier.named_models import name_of
from serve_apps.classifier.replica import Classifier
from serve_apps.deployment import bind_replicas
from serve_apps.monitoring.reports import router as reports
from serve_apps.monitoring.request_log import note_response
from serve_apps.options import ServeConfig
from serve_apps.page.model_files import DeviceModel, device_file, device_model
from serve_apps.page.routes import page_router
from serve_apps.request_parsing import parse_analyze, parse_predict
from serve_apps.responses import BINARY_FILE, ERROR_RESPONSES, new_api, request_body, to_json
from serve_apps.schema import ClassifierInfo, Health, ModelList, NamedModel, PredictRequest, PredictResponse

api = new_api("Ferry", "Facial expression recognition")
api.include_router(page_router())
api.include_router(reports)

PREDICT = request_body(PredictRequest, "files", {"type": "array", "items": BINARY_FILE}, raw="image/*")
ANALYZE = request_body(AnalyzeRequest, "img", BINARY_FILE)


def responses(model: type) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model}, **ERROR_RESPONSES}


def client_of(request: Request) -> str:
    """What identifies the client of a request: its own X-Client-ID, else its address."""
    return request.headers.get("x-client-id") or (request.client.host if request.client else "")


@serve.deployment
@serve.ingress(api)
class ClassifierReplica(Classifier):
    """One replica of the classifier with Ferry's and DeepFace's routes."""

    async def answer(self, request: Request, images: list[bytes], model: str | None) -> PredictResponse:
        """The response for the images of a request, which is noted for the log of requests."""
        response = await self.predict_images(images, client_of(request), model)
        note_response(request, response, self.config.log_labels)
        return response

    @api.post("/v1/predict", responses=responses(PredictResponse), openapi_extra=PREDICT)
    async def predict_request(self, request: Request) -> Response:
        """Classify the expression of each face in one or more images."""
        self.admit(request, "predict")
        images, model = await parse_predict(request, self.config)
        return to_json(await self.answer(request, images, model))

    @api.post("/analyze", responses=responses(AnalyzeResponse), openapi_extra=ANALYZE)
    async def analyze(self, request: Request) -> Response:
        """Classify the expression of each face in one image. Request and response are those of DeepFace's API."""
        self.admit(request, "predict")
        images, model = await parse_analyze(request, self.config)
        response = await self.answer(request, images, model)
        if not response.model.labels:
            raise HTTPException(422, "this model predicts valence and arousal only; use /v1/predict")
        return to_json(to_deepface(response.images[0]))

    @api.get("/v1/models", responses=ERROR_RESPONSES)
    async def models(self, request: Request) -> ModelList:
        """List the models, the one first that answers requests without `model`."""
        self.admit(request, "metadata")
        served = NamedModel(id=name_of(self.model.reference), **self.model.current.info.model_dump())
        return ModelList(models=[served, *await asyncio.to_thread(self.named.describe)])

    @api.get("/v1/model", responses=ERROR_RESPONSES)
    async def device_model(self, request: Request) -> DeviceModel:
        """Describe the served model to a browser that runs it itself; 404 if its files are not offered."""
        self.admit(request, "metadata")
        return await asyncio.to_thread(device_model, self.model.current.info, self.config)

    @api.get("/v1/model/{digest}/{name}", response_class=FileResponse, responses=ERROR_RESPONSES)
    async def device_file(self, digest: str, name: str, request: Request) -> FileResponse:
        """A file of the served model."""
        self.admit(request, "metadata")
        return await asyncio.to_thread(device_file, digest, name, self.model.current.info, self.config)

    @api.get("/healthz")
    async def health(self) -> Health[ClassifierInfo]:
        """Return 200 if the model responds. Needs no token."""
        return self.report_health()


def build_app(args: ServeConfig) -> Application:
    """The application for ``args``; pass it to `ray.serve.run`, or deploy it with `serve deploy`."""
    return bind_replicas(ClassifierReplica, args, batch_size=args.max_batch_size)  # type: ignore[arg-type]
