"""The faces of an image, for prediction and serving alike."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from fer.downloads import cache_folder
from fer.errors import BadRow, UserError
from fer.faces.box import FaceBox, crop, whole_image
from fer.faces.detectors import FaceDetector, open_detector
from fer.faces.options import FaceOptions, Preprocessing

T = TypeVar("T", bound=FaceOptions)

CROP_SIDE = 128
"""Longest side of a face crop, in pixels."""
CROP_RATIO = 1.3
"""Its longer side relative to the shorter one, at most."""


class NoFace(BadRow):
    """No face was found in an image."""


class FaceCutter:
    """Cuts the largest face out of photographs. Thread-safe. Raises UserError as `as_in_training` does."""

    def __init__(self, preprocessing: Preprocessing, detector_model: str | None = None) -> None:
        self.preprocessing = preprocessing
        self.detector = open_detector(as_in_training(FaceOptions(detector_model=detector_model), preprocessing))

    def cut(self, image: np.ndarray) -> np.ndarray:
        """RGB (H, W, 3) uint8 of the largest face; a face crop is returned as it is. Raises NoFace, and BadRow."""
        faces = find_faces(image, self.detector)
        if not faces:
            raise NoFace("no face found")
        return crop(image, faces[0], self.preprocessing.margin, self.preprocessing.align)


def as_in_training(options: T, preprocessing: Preprocessing | None) -> T:
    """The options with the detector, the margin and the alignment that a model's training data had, if they are known.

    ``detector="none"`` stays: such images are cut out already. Raises UserError for other options that differ, and if
    the detector's file is another one, or missing.
    """
    if preprocessing is None or options.detector == "none":
        return options
    update = preprocessing.model_dump(exclude={"detector_file"})
    for name, value in update.items():
        given = getattr(options, name)
        if name in options.model_fields_set and given not in (value, "auto"):
            raise UserError(f"the model was trained on faces that were cut out by {preprocessing}: leave out --{name}")
    if preprocessing.detector_file:
        update["detector_model"] = find_detector_file(preprocessing.detector_file, options.detector_model)
    return options.model_copy(update=update)


def find_detector_file(name: str, detector_model: str | None = None) -> str:
    """Path of a detector's recorded file. Raises UserError if ``detector_model`` is another one, or it is missing."""
    file = Path(detector_model) if detector_model else cache_folder() / name
    if file.name != name or not file.is_file():
        raise UserError(
            f"the faces of the training data were found with {name}, which is not {file}: `fer fetch yunet` downloads "
            "the newest; give the path of another with --detector-model"
        )
    return str(file.absolute())


def find_faces(image: np.ndarray, detector: FaceDetector) -> list[FaceBox]:
    """The faces in an RGB image (H, W, 3) uint8, the largest first; of a face crop in which none was found, all of it.

    Raises BadRow for an image that OpenCV can't process.
    """
    try:
        return detector.detect(image) or ([whole_image(image)] if is_face_crop(image, detector) else [])
    except cv2.error as error:
        raise BadRow(f"face detection failed: {error.err}") from None


def is_face_crop(image: np.ndarray, detector: FaceDetector) -> bool:
    """Whether an image is small and nearly square, and the detector thinks that it might be a face."""
    shorter, longer = sorted(image.shape[:2])
    return longer <= min(CROP_SIDE, CROP_RATIO * shorter) and detector.resembles_face(image)
