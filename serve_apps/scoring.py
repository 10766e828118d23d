"""From the encoded images of several requests to their answers: decode, find faces, score all faces at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer.classifier.predictor import Predictions
from fer.classifier.preprocess import resize
from fer.data.images import check_image, decode_rgb
from fer.errors import BadRow
from fer.faces import FaceBox, FaceDetector, crop, open_detector
from fer.labels import likely_compound
from serve_apps.live_model import Loaded
from serve_apps.options import ServeConfig
from serve_apps.schema import Box, Face, ImageFaces, Prediction, Unreadable


@dataclass(frozen=True)
class Crop:
    """One face that was found."""

    box: Box
    confidence: float | None
    pixels: np.ndarray
    """RGB uint8 (side, side, 3), already as small as the network's input: a batch of large photographs stays small."""


def find_detector(config: ServeConfig) -> FaceDetector | None:
    """The detector that faces are found with; None where each image is one face. Raises UserError."""
    if config.detector == "none":
        return None
    return open_detector(config.detector, Path(config.detector_model) if config.detector_model else None)


def answer(
    requests: list[list[bytes]], loaded: Loaded, detector: FaceDetector | None, config: ServeConfig
) -> list[Prediction | Unreadable]:
    """One answer for each request, in their order; an image that can't be decoded costs its own request only."""
    read = [_read(images, loaded, detector, config) for images in requests]
    crops = [face for images in read if not isinstance(images, Unreadable) for image in images for face in image]
    scores = loaded.predictor.predict([face.pixels for face in crops]) if crops else Predictions(None, None)
    faces = iter([_face(face, row, scores, loaded, config) for row, face in enumerate(crops)])
    return [
        images
        if isinstance(images, Unreadable)
        else Prediction(
            images=[ImageFaces(faces=[next(faces) for _ in image]) for image in images],
            model=loaded.info,
        )
        for images in read
    ]


def _read(
    images: list[bytes], loaded: Loaded, detector: FaceDetector | None, config: ServeConfig
) -> list[list[Crop]] | Unreadable:
    found = []
    for number, image in enumerate(images):
        try:
            check_image(image, config.max_pixels, config.max_image_bytes)
            found.append(_crops(decode_rgb(image), loaded.info.img_size, detector))
        except BadRow as bad:
            return Unreadable(reason=f"image {number}: {bad}")
    return found


def _crops(pixels: np.ndarray, side: int, detector: FaceDetector | None) -> list[Crop]:
    """The faces of an image; without a detector, one that fills it."""
    if detector is None:
        height, width = pixels.shape[:2]
        return [Crop(Box(x=0, y=0, w=width, h=height), None, resize(pixels, side))]
    return [Crop(_rounded(box), box.score, resize(crop(pixels, box), side)) for box in detector.detect(pixels)]


def _rounded(box: FaceBox) -> Box:
    return Box(x=round(box.x), y=round(box.y), w=round(box.width), h=round(box.height))


def _face(found: Crop, row: int, scores: Predictions, loaded: Loaded, config: ServeConfig) -> Face:
    probabilities = affect = None
    if scores.probabilities is not None:
        probabilities = dict(zip(loaded.info.labels, scores.probabilities[row].tolist(), strict=True))
    if scores.valence_arousal is not None:
        affect = scores.valence_arousal[row].tolist()
    label = max(probabilities, key=probabilities.__getitem__) if probabilities else None
    confidence = probabilities[label] if probabilities and label else None
    return Face(
        box=found.box,
        detection_confidence=found.confidence,
        label=label,
        confidence=confidence,
        scores=probabilities,
        valence=affect[0] if affect else None,
        arousal=affect[1] if affect else None,
        compound=likely_compound(probabilities) if probabilities and config.compound else None,
        uncertain=confidence is not None and confidence < config.min_confidence,
    )
