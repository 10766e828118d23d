"""Face detection, alignment and cropping.

Detectors are not thread-safe: give each thread its own. `crop` and `align` are pure functions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np

from fer.errors import UserError

DetectorName = Literal["none", "haar", "yunet"]

MIN_SCORE = 0.6
"""YuNet's score threshold. OpenCV's default of 0.9 misses small and turned faces."""
MAX_SIDE = 1280
"""Larger images are downscaled to this side for detection: it is faster, and YuNet misses very large faces."""
HAAR_FILE = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"
YUNET_FILES = "face_detection_yunet*.onnx"


@dataclass(frozen=True, eq=False)
class FaceBox:
    """Bounding box of a face, in pixels, within the image."""

    x: float
    y: float
    width: float
    height: float
    score: float | None = None
    """Confidence of the detector, in [0, 1]; None for detectors without one (none, haar)."""
    landmarks: np.ndarray | None = None
    """Pixels (5, 2): right eye, left eye, nose tip, right and left mouth corner, as the person's own right and left."""

    @property
    def area(self) -> float:
        return self.width * self.height

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2


class FaceDetector(Protocol):
    """A face detector. Not thread-safe."""

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        """Faces in an RGB uint8 image (H, W, 3), the largest first."""
        ...


def open_detector(name: DetectorName, model_file: Path | None = None) -> FaceDetector:
    """A detector by name. ``model_file`` is YuNet's; unset, it is looked up in the cache folder.

    Raises UserError if the model file is missing.
    """
    if name == "none":
        return WholeImageDetector()
    if name == "haar":
        return HaarDetector()
    if name == "yunet":
        return YuNetDetector(model_file or find_yunet())
    raise UserError(f"no detector {name!r}; known: none, haar, yunet")


class WholeImageDetector:
    """No detection: the image is a face already, as in data sets of cropped faces."""

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        height, width = image.shape[:2]
        return [FaceBox(0.0, 0.0, float(width), float(height))]


class HaarDetector:
    """OpenCV's Haar cascade (Viola & Jones, 2001): frontal faces only, no scores; the model file comes with OpenCV."""

    def __init__(self) -> None:
        self.cascade = cv2.CascadeClassifier(str(HAAR_FILE))
        assert not self.cascade.empty(), "OpenCV 4 includes this cascade"

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        small, scale = _downscale(image)
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        found = self.cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(24, 24))
        return _largest_first([_box(box, scale, image) for box in found])


class YuNetDetector:
    """YuNet (Wu, Peng & Yu, 2023) in OpenCV: scores and five landmarks, for faces from about 10 pixels."""

    def __init__(self, model_file: Path) -> None:
        if not model_file.is_file():
            raise UserError(f"no detector model at {model_file}: {_DOWNLOAD_YUNET}")
        try:
            self.network = cv2.FaceDetectorYN.create(str(model_file), "", (320, 320), MIN_SCORE)
        except cv2.error:
            raise UserError(f"{model_file} is not a YuNet model that OpenCV can read: {_DOWNLOAD_YUNET}") from None

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        small, scale = _downscale(image)
        self.network.setInputSize((small.shape[1], small.shape[0]))
        _, found = self.network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if found is None:
            return []
        return _largest_first(
            [
                _box(face[:4], scale, image, min(float(face[14]), 1.0), face[4:14].reshape(5, 2) / scale)
                for face in found
            ]
        )


_DOWNLOAD_YUNET = (
    "download face_detection_yunet_2023mar.onnx from the OpenCV Zoo (models/face_detection_yunet) and pass it with "
    "--detector-model, or use --detector haar, which needs no file"
)


def cache_folder() -> Path:
    """Folder of downloaded model files: FER_CACHE, else ~/.cache/ferry."""
    return Path(os.environ.get("FER_CACHE") or Path.home() / ".cache" / "ferry")


def find_yunet() -> Path:
    """The newest YuNet model in the cache folder. Raises UserError if there is none."""
    files = sorted(cache_folder().glob(YUNET_FILES))
    if not files:
        raise UserError(f"no {YUNET_FILES} in {cache_folder()}: {_DOWNLOAD_YUNET}")
    return files[-1]


def crop(image: np.ndarray, box: FaceBox, margin: float = 0.2) -> np.ndarray:
    """Square crop around a box, (S, S, 3); S is the box's longer side plus ``margin`` of it on each side.

    Outside the image, the edge pixels are repeated.
    """
    side = max(1, round(max(box.width, box.height) * (1 + 2 * margin)))
    x, y = (round(middle - side / 2) for middle in box.centre)
    columns = np.clip(np.arange(x, x + side), 0, image.shape[1] - 1)
    rows = np.clip(np.arange(y, y + side), 0, image.shape[0] - 1)
    return image[rows[:, None], columns]


def align(image: np.ndarray, box: FaceBox) -> np.ndarray:
    """Rotate the image about the box's centre so that the eyes are level; the box then contains the upright face.

    The image keeps its size. Without landmarks it is returned unchanged.
    """
    if box.landmarks is None:
        return image
    height, width = image.shape[:2]
    rotation = cv2.getRotationMatrix2D(box.centre, eye_angle(box.landmarks), 1.0)
    return cv2.warpAffine(image, rotation, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def eye_angle(landmarks: np.ndarray) -> float:
    """Clockwise rotation of a face in the image, in degrees, in [-180, 180]."""
    right_eye, left_eye = landmarks[:2]
    across, down = left_eye - right_eye
    return float(np.degrees(np.arctan2(down, across)))


def _downscale(image: np.ndarray) -> tuple[np.ndarray, float]:
    """The image with no side above `MAX_SIDE`, and its scale relative to the original."""
    scale = min(1.0, MAX_SIDE / max(image.shape[:2]))
    if scale == 1.0:
        return image, scale
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale


def _box(
    corners: Iterable[float],
    scale: float,
    image: np.ndarray,
    score: float | None = None,
    landmarks: np.ndarray | None = None,
) -> FaceBox:
    """A detection (x, y, width, height) at ``scale``, in pixels of the original image and clipped to it."""
    height, width = image.shape[:2]
    x, y, wide, high = (float(value) / scale for value in corners)
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + wide, float(width)), min(y + high, float(height))
    return FaceBox(left, top, right - left, bottom - top, score, landmarks)


def _largest_first(boxes: list[FaceBox]) -> list[FaceBox]:
    return sorted((box for box in boxes if box.width > 0 and box.height > 0), key=lambda box: -box.area)
