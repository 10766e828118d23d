"""The box of a face in an image, and cutting the face out. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


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
    whole_image: bool = False
    """Whether nothing was detected, and the whole image is taken as the face."""

    @property
    def area(self) -> float:
        return self.width * self.height

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2


def overlap(first: FaceBox, second: FaceBox) -> float:
    """The intersection of two boxes, as a part of the smaller one, in [0, 1]."""
    width = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    height = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    return max(width, 0.0) * max(height, 0.0) / min(first.area, second.area)


def whole_image(image: np.ndarray) -> FaceBox:
    """The box of an image that is one face."""
    height, width = image.shape[:2]
    return FaceBox(0.0, 0.0, float(width), float(height), whole_image=True)


def crop(image: np.ndarray, box: FaceBox, margin: float, align: bool = False) -> np.ndarray:
    """Square crop around a box, (S, S, 3); S is the box's longer side plus ``margin`` of it on each side.

    With ``align``, the image is rotated about the box's centre so that the eyes are level, if the box has landmarks.
    Outside the image, the edge pixels are repeated. An image that is one face is returned as it is.
    """
    if box.whole_image:
        return image
    side = max(1, round(max(box.width, box.height) * (1 + 2 * margin)))
    x, y = (round(middle - side / 2) for middle in box.centre)
    if align and box.landmarks is not None:
        # Only what is near, as OpenCV rotates no image of 32,767 pixels across. The crop's corners do not leave it.
        (across, down), reach = (int(middle) for middle in box.centre), side + 2
        left, top = max(0, across - reach), max(0, down - reach)
        near = image[top : down + reach, left : across + reach]
        centre = box.centre[0] - left, box.centre[1] - top
        rotation = cv2.getRotationMatrix2D(centre, eye_angle(box.landmarks), 1.0)
        to_crop = rotation - np.array([[0.0, 0.0, x - left], [0.0, 0.0, y - top]])
        return cv2.warpAffine(near, to_crop, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    columns = np.clip(np.arange(x, x + side), 0, image.shape[1] - 1)
    rows = np.clip(np.arange(y, y + side), 0, image.shape[0] - 1)
    return image[rows[:, None], columns]


def eye_angle(landmarks: np.ndarray) -> float:
    """Clockwise rotation of a face in the image, in degrees, in [-180, 180]."""
    right_eye, left_eye = landmarks[:2]
    across, down = left_eye - right_eye
    return float(np.degrees(np.arctan2(down, across)))
