"""The faces of an image, for prediction and serving alike."""

from __future__ import annotations

import cv2
import numpy as np

from fer.errors import BadRow
from fer.faces.box import FaceBox, whole_image
from fer.faces.detectors import FaceDetector

CROP_SIDE = 128
"""Longest side of a face crop, in pixels."""
CROP_RATIO = 1.3
"""Its longer side relative to the shorter one, at most."""


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
