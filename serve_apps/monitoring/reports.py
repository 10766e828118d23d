"""Routes that report what all replicas have observed, and that take feedback."""

# Annotations stay objects here: Serve ships the routes without this module's names, so strings could not be resolved.
import asyncio
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response

from serve_apps.classifier.challenger import Challenger
from serve_apps.deployment import ModelReplica
from serve_apps.monitoring.comparison import Comparison, compare
from serve_apps.monitoring.drift import DriftReport, drift_report
from serve_apps.monitoring.feedback import Feedback, FeedbackResponse, feedback_response
from serve_apps.monitoring.observations import Labelled
from serve_apps.monitoring.observer import Observer, served_as
from serve_apps.monitoring.snapshot import Snapshot, merge
from serve_apps.request_parsing import read_json
from serve_apps.responses import ERROR_RESPONSES, json_body, to_json
from serve_apps.schema import ErrorResponse

router = APIRouter()

FEEDBACK: dict[int | str, dict[str, Any]] = {
    200: {"model": FeedbackResponse},
    **ERROR_RESPONSES,
    404: {"model": ErrorResponse},
}


class ReportingReplica(ModelReplica):
    """A replica with an observer. A report asks every replica, whichever of them gets the request."""

    observer: Observer
    challenger: Challenger | None

    async def snapshot(self) -> Snapshot:
        """What this replica has observed."""
        return self.observer.observations.snapshot()

    async def add_feedback(self, feedback: Feedback) -> Labelled | None:
        """Record feedback if this replica has answered the request; what its versions had predicted, else None."""
        return self.observer.add_feedback(feedback)

    @router.post("/v1/feedback", responses=FEEDBACK, openapi_extra=json_body(Feedback))
    async def feedback(self, request: Request) -> Response:
        """Say which label a face really has; 404 for a request that the replicas do not know, or no longer."""
        self.admit(request, "feedback")
        feedback = await read_json(request, self.config, Feedback)
        labelled: list[Labelled] = [each for each in await self.observer.ask_replicas("add_feedback", feedback) if each]
        if not labelled:
            raise HTTPException(404, "no such face among the last requests, or it has feedback already")
        if feedback.label not in labelled[0].labels:
            raise HTTPException(422, f"no label {feedback.label!r}; the model has {', '.join(labelled[0].labels)}")
        return to_json(feedback_response(feedback.label, labelled[0].predicted))

    @router.get("/v1/drift", responses=ERROR_RESPONSES)
    async def drift(self, request: Request) -> DriftReport:
        """Compare the last answers with the model's predictions on its validation split."""
        self.admit(request, "metadata")
        return await asyncio.to_thread(drift_report, await self.observe_all())

    @router.get("/v1/comparison", responses=ERROR_RESPONSES)
    async def comparison(self, request: Request) -> Comparison:
        """Compare the served model with its challenger: agreement, latency, and accuracy by feedback."""
        self.admit(request, "metadata")
        challenger = served_as(self.challenger.model.current, "challenger") if self.challenger else None
        return compare(await self.observe_all(), served_as(self.model.current, "champion"), challenger)

    async def observe_all(self) -> Snapshot:
        """What all replicas have observed."""
        return merge(await self.observer.ask_replicas("snapshot"))
