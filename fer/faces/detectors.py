"""Face detectors. Each looks at an image twice: at its own size, and small, for faces that fill it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from threading import local
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np

from fer.downloads import cache_folder
from fer.errors import UserError
from fer.faces.box import FaceBox, overlap, whole_image
from fer.faces.options import FaceOptions

MIN_SCORE = 0.6
"""YuNet's score threshold. OpenCV's default of 0.9 misses small and turned faces."""
YUNET_SIDE = 1280
HAAR_SIDE = 384
"""Larger images are downscaled to this side for the first look. On large ones the cascade takes longer and finds more
that is no face, not more faces."""
HAAR_RATIO = 12
"""Longer side of an image relative to the smallest face that the cascade looks for."""
CLOSE_SIDE = 128
"""Side to which an image is resized for the second look: at their own size, both detectors miss faces that fill it."""
SAME_FACE = 0.5
"""Overlap from which two boxes are one face: parts of a large face often look like another, smaller one."""
DETAIL = 0.1
"""Score by which a box of the second look must be surer than that of the first to replace it."""
MIN_FILL = 0.4
"""Side of a face that fills an image, as a part of the image's shorter side."""
HAAR_FILE = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"
YUNET_FILES = "face_detection_yunet*.onnx"
HAAR_HINT = (
    "Faces are found with OpenCV's Haar cascade, which misses turned and small ones; "
    "`fer fetch yunet` installs a better detector."
)

T = TypeVar("T", bound=FaceOptions)


class FaceDetector(Protocol):
    """A face detector. Thread-safe, and threads do not wait for each other."""

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        """Faces in an RGB uint8 image (H, W, 3), the largest first."""
        ...

    def resembles_face(self, image: np.ndarray) -> bool:
        """Whether the image might be a face that fills it: a weaker test than `detect`."""
        ...


def choose_detector(options: T) -> T:
    """The options with `none`, `haar` or `yunet` in place of `auto`, and the path of YuNet's file.

    Raises UserError if YuNet is asked for and has no file.
    """
    if options.detector in ("none", "haar"):
        return options
    files = [options.detector_model] if options.detector_model else sorted(cache_folder().glob(YUNET_FILES))
    if files:
        return options.model_copy(update={"detector": "yunet", "detector_model": str(Path(files[-1]).absolute())})
    if options.detector == "auto":
        return options.model_copy(update={"detector": "haar"})
    raise UserError(f"no {YUNET_FILES} in {cache_folder()}: {_GET_YUNET}")


def open_detector(options: FaceOptions) -> FaceDetector:
    """The detector that `choose_detector` chooses. Raises UserError if its model file is missing or not readable."""
    chosen = choose_detector(options)
    if chosen.detector == "none":
        return WholeImageDetector()
    if chosen.detector == "haar":
        return HaarDetector()
    assert chosen.detector_model
    return YuNetDetector(Path(chosen.detector_model))


class PerThread(local):
    """An object for each thread, for OpenCV's detectors, which are not thread-safe."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.value = make()


class WholeImageDetector:
    """No detection: the image is a face already, as in data sets of cropped faces."""

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        return [whole_image(image)]

    def resembles_face(self, image: np.ndarray) -> bool:
        return True


class HaarDetector:
    """OpenCV's Haar cascade (Viola & Jones, 2001): frontal faces only, no scores; the model file comes with OpenCV."""

    def __init__(self) -> None:
        self.cascade = PerThread(lambda: cv2.CascadeClassifier(str(HAAR_FILE)))
        assert not self.cascade.value.empty(), "OpenCV 4 includes this cascade"

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        full = self.look(image, full_scale(image, HAAR_SIDE))
        return merge_looks(full, self.look(image, close_scale(image), border=0.25))

    def resembles_face(self, image: np.ndarray) -> bool:
        return bool(self.look(image, close_scale(image), border=0.25, neighbours=0, min_fill=MIN_FILL))

    def look(
        self, image: np.ndarray, scale: float, border: float = 0.0, neighbours: int = 5, min_fill: float = 0.0
    ) -> list[FaceBox]:
        """Faces at a scale: where more than ``neighbours`` windows of the cascade overlap.

        The edge pixels are repeated around the image, over ``border`` of its shorter side: the cascade needs to see a
        little more than the face.
        """
        grey = cv2.equalizeHist(cv2.cvtColor(_resize(image, scale), cv2.COLOR_RGB2GRAY))
        side = min(grey.shape)
        edge = round(border * side)
        grey = cv2.copyMakeBorder(grey, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        least = max(24, round(min_fill * side), max(grey.shape) // HAAR_RATIO)
        found = self.cascade.value.detectMultiScale(
            grey, scaleFactor=1.1, minNeighbors=neighbours, minSize=(least, least)
        )
        return _inside(_box((x - edge, y - edge, width, height), scale, image) for x, y, width, height in found)


class YuNetDetector:
    """YuNet (Wu, Peng & Yu, 2023) in OpenCV: scores and five landmarks, for faces from about 10 pixels."""

    def __init__(self, model_file: Path) -> None:
        if not model_file.is_file():
            raise UserError(f"no detector model at {model_file}: {_GET_YUNET}")
        try:
            self.network = PerThread(lambda: cv2.FaceDetectorYN.create(str(model_file), "", (320, 320), MIN_SCORE))
        except cv2.error:
            raise UserError(f"{model_file} is not a YuNet model that OpenCV can read: {_GET_YUNET}") from None

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        return merge_looks(self.look(image, full_scale(image, YUNET_SIDE)), self.look(image, close_scale(image)))

    def resembles_face(self, image: np.ndarray) -> bool:
        faces = self.look(image, close_scale(image), MIN_SCORE / 2)
        return any(max(face.width, face.height) >= MIN_FILL * min(image.shape[:2]) for face in faces)

    def look(self, image: np.ndarray, scale: float, min_score: float = MIN_SCORE) -> list[FaceBox]:
        """Faces at a scale."""
        small = cv2.cvtColor(_resize(image, scale), cv2.COLOR_RGB2BGR)
        network = self.network.value
        network.setInputSize((small.shape[1], small.shape[0]))
        network.setScoreThreshold(min_score)
        found = network.detect(small)[1]
        return _inside(
            _box(face[:4], scale, image, min(float(face[14]), 1.0), face[4:14].reshape(5, 2) / scale)
            for face in (found if found is not None else ())
        )


_GET_YUNET = (
    "`fer fetch yunet` downloads one; or give the path of face_detection_yunet_2026may.onnx from the OpenCV Zoo with "
    "--detector-model, or use --detector haar, which needs no file"
)


def full_scale(image: np.ndarray, side: int) -> float:
    """Scale of the first look: that of the image, or less for one that is larger than ``side``."""
    return min(1.0, side / max(image.shape[:2]))


def close_scale(image: np.ndarray) -> float:
    """Scale of the second look, for faces that fill the image; it enlarges small images."""
    return CLOSE_SIDE / max(image.shape[:2])


def _resize(image: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1.0:
        return image
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _inside(boxes: Iterable[FaceBox]) -> list[FaceBox]:
    """Those that have an area in the image. In odd images, YuNet finds some far outside, or that are not numbers."""
    return [box for box in boxes if box.width > 0 and box.height > 0]


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


def merge_looks(full: list[FaceBox], close: list[FaceBox]) -> list[FaceBox]:
    """Each face once, the largest first. Of boxes that overlap, the surest stays; of boxes without scores, the largest.

    The first look sees more detail, so a box of the second one must be surer by `DETAIL`.
    """
    ranked = [(box, box.score or 0.0) for box in full] + [(box, (box.score or DETAIL) - DETAIL) for box in close]
    faces: list[FaceBox] = []
    for box, _ in sorted(ranked, key=lambda item: (-item[1], -item[0].area)):
        if box.area > 0 and all(overlap(box, face) < SAME_FACE for face in faces):  # a box of YuNet may be NaN
            faces.append(box)
    return sorted(faces, key=lambda box: -box.area)
