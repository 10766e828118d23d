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
from fastapi.responses import FileResponse
from ray import serve
from ray.serve import Application

from serve_apps.api_keys import ApiKey
from serve_apps.challenger import MAX_SHADOW_BATCHES, Challenger, Role, agreement
from serve_apps.deepface import AnalyzeRequest, AnalyzeResponse, to_deepface
from serve_apps.deployment import ModelReplica, bind_replicas
from serve_apps.monitoring import ClassifierMetrics
from serve_apps.options import ServeConfig
from serve_apps.page.model_files import DeviceModel, device_file, device_model
from serve_apps.page.routes import page_router
from serve_apps.request_parsing import parse_analyze, parse_predict
from serve_apps.responses import BINARY_FILE, ERROR_RESPONSES, new_api, request_body, to_json
from serve_apps.schema import ClassifierInfo, Health, InvalidInput, ModelList, PredictRequest, PredictResponse

api = new_api("Ferry", "Facial expression recognition")
api.include_router(page_router())

PREDICT = request_body(PredictRequest, "files", {"type": "array", "items": BINARY_FILE}, raw="image/*")
ANALYZE = request_body(AnalyzeRequest, "img", BINARY_FILE)


def responses(model: type) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model}, **ERROR_RESPONSES}


class Classifier(ModelReplica):
    """One replica of the classifier, and of its challenger if it has one, without routes."""

    config: ServeConfig

    def __init__(self, config: ServeConfig, keys: list[ApiKey]) -> None:
        from fer.faces.detectors import open_detector
        from serve_apps.classifier_inference import load_classifier

        load = partial(load_classifier, device=config.device)
        super().__init__(config, keys, load)
        self.challenger = Challenger(config, load) if config.challenger else None
        if self.challenger:
            self.followed.append(self.challenger.model)
        self.detector = open_detector(config)
        self.metrics = ClassifierMetrics()
        self.predict_batch.set_max_batch_size(config.max_batch_size)  # type: ignore[attr-defined]
        self.predict_batch.set_batch_wait_timeout_s(config.batch_wait_ms / 1000)  # type: ignore[attr-defined]

    async def predict(self, images: list[bytes], client: str = "") -> PredictResponse | InvalidInput:
        """The response for the encoded images of one request. Other applications call it through a handle."""
        started = time.perf_counter()
        role = self.challenger.role(client) if self.challenger else "champion"
        response: PredictResponse | InvalidInput = await self.predict_batch((images, role))
        if isinstance(response, PredictResponse):
            spent = response.timing
            total = (time.perf_counter() - started) * 1000
            spent.waiting = max(0.0, total - spent.decoding - spent.detection - spent.model)
        return response

    @serve.batch
    async def predict_batch(self, requests: list[tuple[list[bytes], Role]]) -> list[PredictResponse | InvalidInput]:
        """Requests to their responses, all of one role from one version of its model."""
        responses: dict[int, PredictResponse | InvalidInput] = {}
        for role in sorted({role for _, role in requests}):
            numbers = [number for number, request in enumerate(requests) if request[1] == role]
            answers = await self.predict_as(role, [requests[number][0] for number in numbers])
            responses |= dict(zip(numbers, answers, strict=True))
        return [responses[number] for number in range(len(requests))]

    async def predict_as(self, role: Role, requests: list[list[bytes]]) -> list[PredictResponse | InvalidInput]:
        """The responses of the champion, which may start those of the challenger in shadow, or of the challenger."""
        from serve_apps.classifier_inference import predict_requests

        followed = self.challenger.model if self.challenger and role == "challenger" else self.model
        model = followed.current
        responses = await asyncio.to_thread(predict_requests, requests, model, self.detector, self.config)
        for response in responses:
            if isinstance(response, PredictResponse):
                response.role = role
        self.metrics.record(responses, model.info, role)
        if self.challenger and self.challenger.shadow and role == "champion":
            if self.challenger.waiting < MAX_SHADOW_BATCHES:
                self.start_task(self.compare(self.challenger, requests, responses))
            else:
                self.metrics.shadow_skipped.inc(len(requests))
        return responses

    async def compare(
        self, challenger: Challenger, requests: list[list[bytes]], responses: list[PredictResponse | InvalidInput]
    ) -> None:
        """Let the challenger predict the requests that the champion has answered, and record where they agree."""
        challenger.waiting += 1
        try:
            self.metrics.record_agreement(*agreement(responses, await self.predict_as("challenger", requests)))
        finally:
            challenger.waiting -= 1

    async def predict_images(self, images: list[bytes], client: str = "") -> PredictResponse:
        """The response for the images of one request. Raises HTTPException 422 for an image that is not valid."""
        response = await self.predict(images, client)
        if isinstance(response, InvalidInput):
            raise HTTPException(422, response.reason)
        return response


def client_of(request: Request) -> str:
    """What identifies the client of a request: its own X-Client-ID, else its address."""
    return request.headers.get("x-client-id") or (request.client.host if request.client else "")


@serve.deployment
@serve.ingress(api)
class ClassifierReplica(Classifier):
    """One replica of the classifier with Ferry's and DeepFace's routes."""

    @api.post("/v1/predict", responses=responses(PredictResponse), openapi_extra=PREDICT)
    async def predict_request(self, request: Request) -> Response:
        """Classify the expression of each face in one or more images."""
        self.admit(request, "predict")
        return to_json(await self.predict_images(await parse_predict(request, self.config), client_of(request)))

    @api.post("/analyze", responses=responses(AnalyzeResponse), openapi_extra=ANALYZE)
    async def analyze(self, request: Request) -> Response:
        """Classify the expression of each face in one image. Request and response are those of DeepFace's API."""
        self.admit(request, "predict")
        response = await self.predict_images([await parse_analyze(request, self.config)], client_of(request))
        if not response.model.labels:
            raise HTTPException(422, "this model predicts valence and arousal only; use /v1/predict")
        return to_json(to_deepface(response.images[0]))

    @api.get("/v1/models", responses=ERROR_RESPONSES)
    async def models(self, request: Request) -> ModelList:
        """List the model that is served."""
        self.admit(request, "metadata")
        return ModelList(models=[self.model.current.info])

    @api.get("/v1/model", responses=ERROR_RESPONSES)
    async def device_model(self, request: Request) -> DeviceModel:
        """Describe the served model to a browser that runs it itself; 404 if its files are not offered."""
        self.admit(request, "metadata")
        return await asyncio.to_thread(device_model, self.model.current.info, self.config)

    @api.get("/v1/model/{version}/{name}", response_class=FileResponse, responses=ERROR_RESPONSES)
    async def device_file(self, version: str, name: str, request: Request) -> FileResponse:
        """A file of the served model."""
        self.admit(request, "metadata")
        return await asyncio.to_thread(device_file, version, name, self.model.current.info, self.config)

    @api.get("/healthz")
    async def health(self) -> Health[ClassifierInfo]:
        """Return 200 if the model responds. Needs no token."""
        return self.report_health()


def build_app(args: ServeConfig) -> Application:
    """The application for ``args``; pass it to `ray.serve.run`, or deploy it with `serve deploy`."""
    return bind_replicas(ClassifierReplica, args, batch_size=args.max_batch_size)  # type: ignore[arg-type]
