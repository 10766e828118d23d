"""DeepFace's API: its request, its response, and its names of the emotions."""

from __future__ import annotations

from pydantic import Field

from fer.labels import emotion
from serve_apps.schema import MODEL_FIELD, Box, ImageFaces, Schema

DEEPFACE_NAMES = {"anger": "angry", "happiness": "happy", "sadness": "sad"}
"""DeepFace's names for the emotions that it names differently."""


class AnalyzeRequest(Schema):
    """DeepFace's request. Its other fields (actions, detector_backend, ...) are ignored."""

    img: str | None = Field(None, description="An encoded image as a data URI: data:image/jpeg;base64,...")
    model: str | None = Field(None, description=MODEL_FIELD)
    img_path: str | None = Field(None, description="Rejected: the server opens no path or URL that a client names")


class DeepFaceResult(Schema):
    emotion: dict[str, float] = Field(description="Score of each emotion, 0 to 100")
    dominant_emotion: str
    region: Box
    face_confidence: float = Field(description="The face detector's confidence, 0 to 1; 0 without one, as in DeepFace")


class AnalyzeResponse(Schema):
    """DeepFace's response to its action `emotion`."""

    results: list[DeepFaceResult]


def to_deepface(image: ImageFaces) -> AnalyzeResponse:
    """The faces of one image in the format of DeepFace's API. Every face must have expression scores."""
    results = []
    for face in image.faces:
        assert face.scores is not None
        scores: dict[str, float] = {}
        for label, probability in face.scores.items():
            name = _deepface_name(label)
            scores[name] = scores.get(name, 0.0) + 100 * probability
        results.append(
            DeepFaceResult(
                emotion=scores,
                dominant_emotion=max(scores, key=scores.__getitem__),
                region=face.box,
                face_confidence=face.detection_confidence or 0.0,
            )
        )
    return AnalyzeResponse(results=results)


def _deepface_name(label: str) -> str:
    name = emotion(label) or label
    return DEEPFACE_NAMES.get(name, name)
