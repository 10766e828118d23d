"""Inference of a batch of requests: decode their images, find the faces, classify all faces in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from time import perf_counter

import numpy as np

from fer.classifier.predictor import Predictions, Predictor
from fer.classifier.preprocess import resize
from fer.classifier.spec import ModelSpec
from fer.data.images import check_header, decode_rgb, jpeg_divisor
from fer.errors import BadRow, UserError
from fer.faces.box import FaceBox, crop
from fer.faces.detectors import FaceDetector, WholeImageDetector
from fer.faces.find import as_in_training, find_faces
from fer.labels import likely_compound
from fer.models.folder import read_spec
from fer.registry import resolve_model
from serve_apps.options import ServeConfig
from serve_apps.reloadable_model import LoadedModel
from serve_apps.schema import Box, ClassifierInfo, FacePrediction, ImageFaces, InvalidInput, PredictResponse, Timing

DETAIL = 2
"""Least side of a decoded face relative to the network's input."""

LoadedClassifier = LoadedModel[Predictor, ClassifierInfo]


@dataclass(frozen=True)
class FaceCrop:
    """One face of an image."""

    box: FaceBox
    pixels: np.ndarray
    """RGB uint8 (side, side, 3), already of the network's input size: a batch of large photographs stays small."""


def cut_as_in_training(config: ServeConfig) -> ServeConfig:
    """The config with the detector, margin and alignment that the training data of its model had, if they are known."""
    spec = read_spec(resolve_model(config.model, config), ModelSpec)
    return as_in_training(config, spec.preprocessing)


def load_classifier(folder: Path, name: str, version: str, config: ServeConfig) -> LoadedClassifier:
    """Load the classifier of a model folder. Raises UserError if its training data were cut out in another way."""
    predictor = Predictor([folder], device=config.device)
    spec = predictor.specs[0]
    if as_in_training(config, spec.preprocessing) != config:
        raise UserError(
            f"{name}, version {version}, was trained on faces that were cut out in another way than this server does: "
            "start the server again with it"
        )
    return LoadedModel(predictor, classifier_info(spec, name, version))


def classifier_info(spec: ModelSpec, name: str, version: str) -> ClassifierInfo:
    """What responses say about a model."""
    return ClassifierInfo(
        name=name,
        version=version,
        label_space=spec.label_space,
        labels=spec.labels if spec.has_expression else [],
        head=spec.options.head,
        img_size=spec.options.img_size,
    )


@dataclass(frozen=True)
class DecodedRequest:
    """The faces of a request's images, and the milliseconds that decoding and detection took."""

    images: list[list[FaceCrop]]
    decoding: float
    detection: float


def predict_requests(
    requests: list[list[bytes]], model: LoadedClassifier, detector: FaceDetector, config: ServeConfig
) -> list[PredictResponse | InvalidInput]:
    """One response per request, in order; an image that can't be decoded invalidates only its own request."""
    inputs = [_decode(images, model, detector, config) for images in requests]
    crops = [face for request in inputs if isinstance(request, DecodedRequest) for face in chain(*request.images)]
    started = perf_counter()
    scores = model.predictor.predict([face.pixels for face in crops]) if crops else Predictions(None, None)
    spent = (perf_counter() - started) * 1000
    faces = iter([_face_prediction(face, row, scores, model, config) for row, face in enumerate(crops)])
    return [
        request
        if isinstance(request, InvalidInput)
        else PredictResponse(
            images=[ImageFaces(faces=[next(faces) for _ in image]) for image in request.images],
            model=model.info,
            timing=Timing(decoding=request.decoding, detection=request.detection, model=spent),
        )
        for request in inputs
    ]


def _decode(
    images: list[bytes], model: LoadedClassifier, detector: FaceDetector, config: ServeConfig
) -> DecodedRequest | InvalidInput:
    """Decode the images of a request, and find their faces."""
    faces, decoding, detection = [], 0.0, 0.0
    side, whole = model.info.img_size, isinstance(detector, WholeImageDetector)
    for number, image in enumerate(images):
        started = perf_counter()
        try:
            size = check_header(image, config.max_pixels, config.max_image_bytes)
            pixels = decode_rgb(image, jpeg_divisor(image, size, DETAIL * side) if whole else 1)
            decoded = perf_counter()
            faces.append([_whole_face(pixels, size, side)] if whole else _faces(pixels, side, detector, config))
        except BadRow as error:
            return InvalidInput(reason=f"image {number}: {error}")
        decoding += (decoded - started) * 1000
        detection += (perf_counter() - decoded) * 1000
    return DecodedRequest(faces, decoding, detection)


def _faces(pixels: np.ndarray, side: int, detector: FaceDetector, config: ServeConfig) -> list[FaceCrop]:
    """The faces of an image, cut out."""
    boxes = find_faces(pixels, detector)
    return [FaceCrop(box, resize(crop(pixels, box, config.margin, config.align), side)) for box in boxes]


def _whole_face(pixels: np.ndarray, size: tuple[int, int], side: int) -> FaceCrop:
    """An image that is one face, decoded from one of ``size`` (width, height): no larger than the network needs it."""
    height, width = pixels.shape[:2]
    upright = size if (size[0] > size[1]) == (width > height) else size[::-1]  # EXIF may turn the image
    return FaceCrop(FaceBox(0.0, 0.0, float(upright[0]), float(upright[1]), whole_image=True), resize(pixels, side))


def _rounded(box: FaceBox) -> Box:
    return Box(x=round(box.x), y=round(box.y), w=round(box.width), h=round(box.height))


def _face_prediction(
    face: FaceCrop, row: int, scores: Predictions, model: LoadedClassifier, config: ServeConfig
) -> FacePrediction:
    probabilities = affect = None
    if scores.probabilities is not None:
        probabilities = dict(zip(model.info.labels, scores.probabilities[row].tolist(), strict=True))
    if scores.valence_arousal is not None:
        affect = scores.valence_arousal[row].tolist()
    label = max(probabilities, key=probabilities.__getitem__) if probabilities else None
    confidence = probabilities[label] if probabilities and label else None
    return FacePrediction(
        box=_rounded(face.box),
        detection_confidence=face.box.score,
        whole_image=face.box.whole_image,
        label=label,
        confidence=confidence,
        scores=probabilities,
        valence=affect[0] if affect else None,
        arousal=affect[1] if affect else None,
        compound=likely_compound(probabilities) if probabilities and config.compound else None,
        uncertain=confidence is not None and confidence < config.min_confidence,
    )
