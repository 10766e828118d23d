"""Feedback: the true label of a face that was answered before."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from serve_apps.monitoring.snapshot import Served
from serve_apps.schema import Role, Schema


class Feedback(Schema):
    request_id: str = Field(min_length=1, max_length=128, description="X-Request-ID of the response")
    label: str = Field(min_length=1, max_length=64, description="The true label, one of the model's")
    image: int = Field(0, ge=0, description="Number of the image in the request, from 0")
    face: int = Field(0, ge=0, description="Number of the face in the image, from 0")


class JudgedPrediction(Schema):
    """What a version had predicted for the face."""

    model: str
    version: str
    role: Role
    label: str
    correct: bool


class FeedbackResponse(Schema):
    predictions: list[JudgedPrediction]


def feedback_response(label: str, predicted: Mapping[Served, str]) -> FeedbackResponse:
    """What the versions had predicted for a face, given its true label."""
    return FeedbackResponse(
        predictions=[
            JudgedPrediction(**served._asdict(), label=name, correct=name == label)
            for served, name in predicted.items()
        ]
    )
