"""One replica of the classifier, without routes: it decodes, detects and classifies several requests in one batch."""

# Annotations stay objects here, as in the deployments.
import asyncio
import logging
import time
from functools import partial
from typing import NamedTuple

from fastapi import HTTPException
from ray import serve

from serve_apps.access.api_keys import ApiKey
from serve_apps.classifier.challenger import MAX_SHADOW_BATCHES, Challenger
from serve_apps.classifier.named_models import NamedModels, by_name, name_of
from serve_apps.monitoring.observations import Response as Answer
from serve_apps.monitoring.observer import Observer, served_as
from serve_apps.monitoring.reports import ReportingReplica
from serve_apps.monitoring.request_log import request_id
from serve_apps.monitoring.snapshot import Served
from serve_apps.options import ServeConfig
from serve_apps.reloadable_model import ReloadableModel
from serve_apps.responses import RETRY_AFTER_SECONDS
from serve_apps.schema import InvalidInput, PredictResponse, Role

log = logging.getLogger("ray.serve")


class BatchItem(NamedTuple):
    """A request in a batch."""

    images: list[bytes]
    model: ReloadableModel
    request_id: str


class Classifier(ReportingReplica):
    """One replica of the classifier, of its challenger if it has one, and of the models that requests name."""

    config: ServeConfig

    def __init__(self, config: ServeConfig, keys: list[ApiKey]) -> None:
        from fer.faces.detectors import open_detector
        from serve_apps.classifier.inference import cut_as_in_training, load_classifier

        config = cut_as_in_training(config)
        load = partial(load_classifier, config=config)
        super().__init__(config, keys, load)
        self.challenger = Challenger(config, load) if config.challenger else None
        if self.challenger:
            self.followed += [self.challenger.model.follow, self.challenger.follow_share]
        others = {name: each for name, each in by_name(config.models).items() if name != name_of(config.model)}
        self.named = NamedModels(others, config.max_loaded_models, config, load)
        self.detector = open_detector(config)
        self.observer = Observer(max_asking=config.max_batch_size)  # half of the replica's slots
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
        from serve_apps.classifier.inference import predict_requests

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
