"""What the classifier's server takes and gives; its OpenAPI page is made from these."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from fer.dynamics.scores import NOTICE as DYNAMICS_NOTICE
from fer.labels import emotion

NOTICE = (
    "Estimates of the facial expression shown in an image, made by a statistical model. They say nothing reliable "
    "about what a person feels, thinks or intends, are less accurate for groups of people that the training data "
    "lacks, and must not be the ground for a decision about a person."
)

# DeepFace's names for the emotions that it knows.
DEEPFACE_NAMES = {"anger": "angry", "happiness": "happy", "sadness": "sad"}


class Body(BaseModel):
    """What a server takes or gives; fields may be called ``model``."""

    model_config = ConfigDict(protected_namespaces=())


class PredictRequest(Body):
    images: list[str] = Field(min_length=1, description="Encoded images (JPEG, PNG ...) in base64, or as data URIs")


class AnalyzeRequest(Body):
    """DeepFace's request. Its other fields (actions, detector_backend ...) are the server's choice: ignored."""

    img: str | None = Field(None, description="An encoded image as a data URI: data:image/jpeg;base64,...")
    img_path: str | None = Field(None, description="Refused: the server reads no files or addresses for a client")


class Box(Body):
    """In pixels of the upright image; (x, y) is the top left corner."""

    x: int
    y: int
    w: int
    h: int


class Face(Body):
    box: Box
    detection_confidence: float | None = Field(description="The detector's confidence, 0 to 1; null without one")
    label: str | None = Field(description="Most probable expression; null if the model gives valence and arousal only")
    confidence: float | None = Field(description="Probability of the label, in [0, 1]")
    scores: dict[str, float] | None = Field(description="Probability of each label; they sum to 1")
    valence: float | None = Field(description="Unpleasant -1 to pleasant 1; null if the model does not give it")
    arousal: float | None = Field(description="Calm -1 to excited 1; null if the model does not give it")
    compound: str | None = Field(
        None, description="RAF-DB's compound label of the two likeliest expressions; null unless --compound, or none"
    )
    uncertain: bool = Field(description="The confidence is below the server's --min-confidence")


class ImageFaces(Body):
    faces: list[Face]


class ModelInfo(Body):
    name: str
    version: str
    label_space: str
    labels: list[str]
    head: str
    img_size: int


Points = Annotated[list[tuple[FiniteFloat, FiniteFloat]], Field(min_length=146, max_length=146)]


class DynamicsRequest(Body):
    """One frame against its baseline."""

    flow: str = Field(description="Flow picture, 112x112 pixels (JPEG or PNG) in base64, or as a data URI")
    expression_landmarks: Points = Field(description="The frame's 146 landmarks, [x, y] in pixels")
    baseline_landmarks: Points = Field(description="The baseline's 146 landmarks, [x, y] in pixels")


class FrameScores(Body):
    """Scores of one frame; null where no face was found."""

    frame: int | None = Field(None, description="Number of the video's frame, from 0")
    seconds: float | None = Field(None, description="Its time in the video")
    dynamics: float | None = Field(description="How far the face moves, 0 to 5")
    dynamics_level: int | None = Field(description="The same, rounded")
    synkinesis: float | None = Field(description="How much the wrong parts move with it, 0 to 3")
    synkinesis_level: int | None = Field(description="The same, rounded")


class ScorerInfo(Body):
    name: str
    version: str
    branch: str = Field(description="What scores: flow, landmarks, or the fusion of both")
    takes_videos: bool = Field(description="Whether the server was started with a landmarker")


class DynamicsScores(Body):
    frames: list[FrameScores]
    baseline_frame: int | None = Field(
        None, description="Number of the video's frame that was taken as the face at rest"
    )
    model: ScorerInfo
    notice: str = DYNAMICS_NOTICE


class ScorerHealth(Body):
    status: str = "ok"
    model: ScorerInfo
    uptime_seconds: float
    reload_error: str | None = Field(None, description="Why the newest version is not loaded; the old one answers")


class Prediction(Body):
    images: list[ImageFaces] = Field(description="In the order of the request")
    model: ModelInfo
    notice: str = NOTICE


class Unreadable(Body):
    """Why a request was not answered with a prediction; between the server's own processes."""

    reason: str


class ModelList(Body):
    models: list[ModelInfo]


class Health(Body):
    status: str = "ok"
    model: ModelInfo
    uptime_seconds: float
    reload_error: str | None = Field(None, description="Why the newest version is not loaded; the old one answers")


class Problem(Body):
    """Every answer from 400 on."""

    detail: str


class DeepFaceFace(Body):
    emotion: dict[str, float] = Field(description="Score of each emotion, 0 to 100")
    dominant_emotion: str
    region: Box
    face_confidence: float = Field(description="The detector's confidence, 0 to 1; 0 without one, as in DeepFace")


class Analysis(Body):
    """DeepFace's answer, for its emotion action."""

    results: list[DeepFaceFace]


def to_deepface(image: ImageFaces) -> Analysis:
    """The faces of one image in the shape of DeepFace's API. Every face must have expression scores."""
    results = []
    for face in image.faces:
        assert face.scores is not None
        scores: dict[str, float] = {}
        for label, probability in face.scores.items():
            name = _deepface_name(label)
            scores[name] = scores.get(name, 0.0) + 100 * probability
        results.append(
            DeepFaceFace(
                emotion=scores,
                dominant_emotion=max(scores, key=scores.__getitem__),
                region=face.box,
                face_confidence=face.detection_confidence or 0.0,
            )
        )
    return Analysis(results=results)


def _deepface_name(label: str) -> str:
    meant = emotion(label) or label
    return DEEPFACE_NAMES.get(meant, meant)
