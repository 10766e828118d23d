"""The expression classifier as a Ray Serve application.

One deployment does it all: each replica takes requests, rejects bad ones, and decodes, detects and classifies the
others, several requests in one batch.
"""

# Annotations stay objects here: Serve ships the routes without this module's names, so strings could not be resolved.
import asyncio
import logging
import time
from functools import partial
from typing import Any, NamedTuple

from fastapi import HTTPException, Request, Response
from fastapi.responses import FileResponse
from ray import serve
from ray.serve import Application

from serve_apps.api_keys import ApiKey
from serve_apps.challenger import MAX_SHADOW_BATCHES, Challenger
from serve_apps.deepface import AnalyzeRequest, AnalyzeResponse, to_deepface
from serve_apps.deployment import bind_replicas
from serve_apps.named_models import NamedModels, by_name, name_of
from serve_apps.observations import Response as Answer
from serve_apps.observer import Observer, served_as
from serve_apps.options import ServeConfig
from serve_apps.page.model_files import DeviceModel, device_file, device_model
from serve_apps.page.routes import page_router
from serve_apps.reloadable_model import ReloadableModel
from serve_apps.reports import ReportingReplica
from serve_apps.reports import router as reports
from serve_apps.request_log import note_response, request_id
from serve_apps.request_parsing import parse_analyze, parse_predict
from serve_apps.responses import BINARY_FILE, ERROR_RESPONSES, RETRY_AFTER_SECONDS, new_api, request_body, to_json
from serve_apps.schema import (
    ClassifierInfo,
    Health,
    InvalidInput,
    ModelList,
    NamedModel,
    PredictRequest,
    PredictResponse,
    Role,
)
from serve_apps.snapshot import Served

api = new_api("Ferry", "Facial expression recognition")
api.include_router(page_router())
api.include_router(reports)

log = logging.getLogger("ray.serve")

PREDICT = request_body(PredictRequest, "files", {"type": "array", "items": BINARY_FILE}, raw="image/*")
ANALYZE = request_body(AnalyzeRequest, "img", BINARY_FILE)


def responses(model: type) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model}, **ERROR_RESPONSES}


class BatchItem(NamedTuple):
    """A request in a batch."""

    images: list[bytes]
    model: ReloadableModel
    request_id: str


class Classifier(ReportingReplica):
    """One replica of the classifier, and of its challenger if it has one, without routes."""

    config: ServeConfig

    def __init__(self, config: ServeConfig, keys: list[ApiKey]) -> None:
        from fer.faces.detectors import open_detector
        from serve_apps.classifier_inference import cut_as_in_training, load_classifier

        config = cut_as_in_training(config)
        load = partial(load_classifier, config=config)
        super().__init__(config, keys, load)
        self.challenger = Challenger(config, load) if config.challenger else None
        if self.challenger:
            self.followed.append(self.challenger.follow)
        others = {name: each for name, each in by_name(config.models).items() if name != name_of(config.model)}
        self.named = NamedModels(others, config.max_loaded_models, config, load)
        self.detector = open_detector(config)
        self.observer = Observer()
        self.predict_batch.set_max_batch_size(config.max_batch_size)  # type: ignore[attr-defined]
        self.predict_batch.set_batch_wait_timeout_s(config.batch_wait_ms / 1000)  # type: ignore[attr-defined]

    async def predict(
        self, images: list[bytes], client: str = "", model: str | None = None
    ) -> PredictResponse | InvalidInput:
        """The response for the encoded images of one request. Other applications call it through a handle."""
        started = time.perf_counter()
        chosen = await self.choose(model, client)
        if isinstance(chosen, InvalidInput):
            return chosen
        response: PredictResponse | InvalidInput = await self.predict_batch(BatchItem(images, chosen, request_id()))
        if isinstance(response, PredictResponse):
            spent = response.timing
            total = (time.perf_counter() - started) * 1000
            spent.waiting = max(0.0, total - spent.decoding - spent.detection - spent.model)
            self.observer.metrics.record_waiting(response)
        return response

    async def choose(self, name: str | None, client: str) -> ReloadableModel | InvalidInput:
        """The model that a request names; without a name the served one, or its challenger for some clients."""
        if name is None or name == name_of(self.model.reference):
            challenger = self.challenger
            return challenger.model if challenger and challenger.role(client) == "challenger" else self.model
        if name not in self.named.references:
            return InvalidInput(reason=f"no model {name!r} here; /v1/models lists the models", status=404)
        try:
            return await self.named.get(name)
        except Exception:  # an unreachable registry, broken files: a reason to refuse this model only
            log.exception("could not load %s", name)
            return InvalidInput(reason=f"the model {name!r} cannot be loaded; try again", status=503)

    @serve.batch
    async def predict_batch(self, requests: list[BatchItem]) -> list[Answer]:
        """Requests to their responses, all of one model from one version of it."""
        responses: dict[int, Answer] = {}
        for model in dict.fromkeys(request.model for request in requests):
            numbers = [number for number, request in enumerate(requests) if request.model is model]
            items = [requests[number] for number in numbers]
            answers, served = await self.predict_with(model, items)
            if self.challenger and self.challenger.shadow and model is self.model:
                self.shadow(self.challenger, served, items, answers)
            responses |= dict(zip(numbers, answers, strict=True))
        return [responses[number] for number in range(len(requests))]

    async def predict_with(self, chosen: ReloadableModel, requests: list[BatchItem]) -> tuple[list[Answer], Served]:
        """The responses of one model, and which version of it has answered."""
        from serve_apps.classifier_inference import predict_requests

        role: Role = "challenger" if self.challenger and chosen is self.challenger.model else "champion"
        model, images = chosen.current, [request.images for request in requests]
        responses = await asyncio.to_thread(predict_requests, images, model, self.detector, self.config)
        for response in responses:
            if isinstance(response, PredictResponse):
                response.role = role
        self.observer.record(model, role, [request.request_id for request in requests], responses)
        return responses, served_as(model, role)

    def shadow(
        self, challenger: Challenger, champion: Served, requests: list[BatchItem], responses: list[Answer]
    ) -> None:
        """Let the challenger predict what the served model has answered, afterwards; skip it if it is too slow."""
        if challenger.waiting < MAX_SHADOW_BATCHES:
            self.start_task(self.compare(challenger, champion, requests, responses))
        else:
            self.observer.metrics.record_skipped(len(requests), served_as(challenger.model.current, "challenger"))

    async def compare(
        self, challenger: Challenger, champion: Served, requests: list[BatchItem], responses: list[Answer]
    ) -> None:
        """Let the challenger predict the requests that the champion has answered, and record where they agree."""
        challenger.waiting += 1
        try:
            answers, served = await self.predict_with(challenger.model, requests)
            self.observer.record_agreement(champion, served, responses, answers)
        finally:
            challenger.waiting -= 1

    async def predict_images(self, images: list[bytes], client: str = "", model: str | None = None) -> PredictResponse:
        """The response for the images of one request.

        Raises HTTPException 422 for an image that is not valid, 404 for an unknown model, 503 for a broken one.
        """
        response = await self.predict(images, client, model)
        if isinstance(response, InvalidInput):
            retry = {"Retry-After": str(RETRY_AFTER_SECONDS)} if response.status == 503 else None
            raise HTTPException(response.status, response.reason, retry)
        return response


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
