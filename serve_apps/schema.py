"""Requests and responses of the servers. Their OpenAPI pages are generated from these."""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from fer.dynamics.scores import DISCLAIMER as DYNAMICS_DISCLAIMER

CLASSIFIER_DISCLAIMER = (
    "Estimates of the facial expression shown in an image, made by a statistical model. They say nothing reliable "
    "about what a person feels, thinks or intends, are less accurate for groups of people that the training data "
    "lacks, and must not be the basis of a decision about a person."
)


MODEL_FIELD = "One of the models that /v1/models lists, by its `id`; unset: the first"

Role = Literal["champion", "challenger"]
"""Whether the served model answers, or its challenger."""


class Schema(BaseModel):
    """Base of requests and responses. Fields may be called ``model``."""

    model_config = ConfigDict(protected_namespaces=())


# -- shared ------------------------------------------------------------------------------------------------------------


class ModelInfo(Schema):
    """The model that made a prediction."""

    name: str
    version: str


Info = TypeVar("Info", bound=ModelInfo)


class Health(Schema, Generic[Info]):
    """State of the server."""

    status: str = "ok"
    model: Info
    uptime_seconds: float
    reload_error: str | None = Field(
        None, description="Why the newest version of the model could not be loaded; the previous one is still served"
    )


class ErrorResponse(Schema):
    """Body of every response with a status of 400 or more."""

    detail: str


class InvalidInput(Schema):
    """Takes the place of a prediction, for input that passed the first checks."""

    reason: str
    status: int = 422


# -- the classifier ----------------------------------------------------------------------------------------------------


class PredictRequest(Schema):
    images: list[str] = Field(min_length=1, description="Encoded images (JPEG, PNG, ...) in base64, or as data URIs")
    model: str | None = Field(None, description=MODEL_FIELD)


class Box(Schema):
    """Bounding box in pixels of the upright image; (x, y) is the top left corner."""

    x: int
    y: int
    w: int
    h: int


class FacePrediction(Schema):
    box: Box
    detection_confidence: float | None = Field(
        description="The face detector's confidence, 0 to 1; null if it has none, and for a whole image"
    )
    whole_image: bool = Field(
        description="Whether the whole image was taken as the face: without a detector, or for a face crop in which "
        "none was found"
    )
    label: str | None = Field(
        description="Most probable expression; null if the model predicts valence and arousal only"
    )
    confidence: float | None = Field(description="Probability of the label, 0 to 1")
    scores: dict[str, float] | None = Field(description="Probability of each label; they sum to 1")
    valence: float | None = Field(description="Unpleasant -1 to pleasant 1; null if the model does not predict it")
    arousal: float | None = Field(description="Calm -1 to excited 1; null if the model does not predict it")
    compound: str | None = Field(
        None,
        description="RAF-DB's compound label of the two most probable expressions; null if there is none, "
        "or without --compound",
    )
    uncertain: bool = Field(description="Whether the confidence is below the server's --min-confidence")


class ImageFaces(Schema):
    faces: list[FacePrediction]


class ClassifierInfo(ModelInfo):
    """The classifier that made a prediction."""

    label_space: str
    labels: list[str]
    head: str
    img_size: int = Field(description="Side of the network's input, in pixels")


class Timing(Schema):
    """Where a request's time went, in milliseconds. What the network took is not in it."""

    waiting: float = Field(0.0, description="For other requests, and for the batch to fill")
    decoding: float
    detection: float
    model: float = Field(description="The network, for the whole batch")


class PredictResponse(Schema):
    images: list[ImageFaces] = Field(description="In the order of the request")
    model: ClassifierInfo
    role: Role = Field("champion", description="Whether the served model answered, or its challenger")
    timing: Timing
    disclaimer: str = CLASSIFIER_DISCLAIMER


class NamedModel(ClassifierInfo):
    id: str = Field(description="What requests give as `model` to choose it")


class ModelList(Schema):
    models: list[NamedModel] = Field(description="First the one that answers requests without `model`")


# -- facial dynamics ---------------------------------------------------------------------------------------------------

Landmarks = Annotated[list[tuple[FiniteFloat, FiniteFloat]], Field(min_length=146, max_length=146)]


class DynamicsRequest(Schema):
    """One frame and its baseline, the face at rest."""

    flow: str = Field(
        description="Optical flow from the baseline to the frame, as a 112x112 image (JPEG or PNG) in base64, "
        "or as a data URI"
    )
    expression_landmarks: Landmarks = Field(description="The frame's 146 landmarks, [x, y] in pixels")
    baseline_landmarks: Landmarks = Field(description="The baseline's 146 landmarks, [x, y] in pixels")


class FrameScores(Schema):
    """Scores of one frame; null if no face was found."""

    frame: int | None = Field(None, description="Index of the frame in the video, from 0")
    seconds: float | None = Field(None, description="Time of the frame in the video, in seconds")
    dynamics: float | None = Field(description="How far the face moves, 0 to 5")
    dynamics_level: int | None = Field(description="`dynamics`, rounded")
    synkinesis: float | None = Field(description="How far other parts of the face move with it, 0 to 3")
    synkinesis_level: int | None = Field(description="`synkinesis`, rounded")


class DynamicsInfo(ModelInfo):
    """The dynamics model that made a prediction."""

    branch: str = Field(description="What predicts: the flow branch, the landmark branch, or the fusion of both")
    takes_videos: bool = Field(description="Whether the server was started with a landmarker, which videos need")


class DynamicsResponse(Schema):
    frames: list[FrameScores]
    baseline_frame: int | None = Field(
        None, description="Index of the video's frame that served as the baseline, the face at rest"
    )
    model: DynamicsInfo
    disclaimer: str = DYNAMICS_DISCLAIMER
