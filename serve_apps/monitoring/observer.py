"""What a replica records of its answers, and reports over the answers of all replicas."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve_apps.classifier.challenger import agreement
from serve_apps.monitoring.drift import version_drift
from serve_apps.monitoring.feedback import Feedback
from serve_apps.monitoring.metrics import ClassifierMetrics
from serve_apps.monitoring.observations import Labelled, Observations, Response
from serve_apps.monitoring.snapshot import Served
from serve_apps.reloadable_model import LoadedModel
from serve_apps.responses import RETRY_AFTER_SECONDS
from serve_apps.schema import Role

log = logging.getLogger("ray.serve")

DRIFT_SECONDS = 10
"""Between two updates of the gauges of drift; Ray exports metrics about as often."""
COLLECT_SECONDS = 10
"""Longest wait for the other replicas."""


class Observer:
    """Metrics and observations of one replica, which asks all of them ``max_asking`` times at once at most."""

    def __init__(self, max_asking: int) -> None:
        self.max_asking, self.asking = max_asking, 0
        self.metrics, self.observations = ClassifierMetrics(), Observations()
        self.handle: DeploymentHandle[Any] | None = None
        self.gauges_set: set[Served] = set()
        self.gauges_due = 0.0

    def record(
        self, model: LoadedModel[Any, Any], role: Role, request_ids: Sequence[str], responses: list[Response]
    ) -> None:
        """Record a batch of responses."""
        served = served_as(model, role)
        self.metrics.record(responses, served)
        self.observations.record(served, model.predictor.specs[0].reference, request_ids, responses)
        if time.monotonic() >= self.gauges_due:
            self.gauges_due = time.monotonic() + DRIFT_SECONDS
            self.update_gauges()

    def record_agreement(
        self, champion: Served, challenger: Served, answers: list[Response], shadow: list[Response]
    ) -> None:
        """Record in which faces of a batch both versions agree."""
        counts = agreement(answers, shadow)
        self.metrics.record_agreement(*counts, champion, challenger)
        self.observations.record_agreement(champion, challenger, *counts)

    def add_feedback(self, feedback: Feedback) -> Labelled | None:
        """Record the true label of a face that this replica has answered; return what was predicted, else None."""
        labelled = self.observations.add_feedback(feedback.request_id, feedback.image, feedback.face, feedback.label)
        if labelled and feedback.label in labelled.labels:
            self.metrics.record_feedback(labelled.predicted, feedback.label)
        return labelled

    def update_gauges(self) -> None:
        """Set the gauges of drift of the versions that this replica serves."""
        windows = {served: window.sums() for served, window in self.observations.windows.items() if window.is_recent()}
        for served, window in windows.items():
            if window.labels:
                drift = version_drift(served, window)
                self.metrics.record_drift(served, {"labels": drift.labels, "confidence": drift.confidence})
        for served in self.gauges_set - set(windows):
            self.metrics.record_drift(served, {"labels": None, "confidence": None})
        self.gauges_set = set(windows)

    async def ask_replicas(self, method: str, *arguments: object) -> list[Any]:
        """What a method of every replica of this deployment, this one included, returns.

        Raises HTTPException 503 if too many requests want that at a time, or if a replica does not answer.
        """
        retry = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        # Each holds one of this replica's slots, and its question needs another one: without any left, all would wait.
        if self.asking >= self.max_asking:
            raise HTTPException(503, "the replica makes other reports; try again", retry)
        self.asking += 1
        try:
            if self.handle is None:
                context = serve.get_replica_context()
                self.handle = await asyncio.to_thread(serve.get_deployment_handle, context.deployment, context.app_name)
            return await self.handle.broadcast(method, *arguments).results_async(timeout_s=COLLECT_SECONDS)
        except (TimeoutError, RayError, RayServeException) as error:
            log.warning("could not ask every replica: %s", error)
            raise HTTPException(503, "a replica does not answer; try again", retry) from None
        finally:
            self.asking -= 1


def served_as(model: LoadedModel[Any, Any], role: Role) -> Served:
    return Served(model.info.name, model.info.version, role)
