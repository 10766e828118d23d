"""Faces that fill an image, and face crops in which none is found."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fer.data.images import decode_rgb
from fer.errors import BadRow
from fer.faces.box import FaceBox
from fer.faces.detectors import HaarDetector
from fer.faces.find import find_faces


class Stub:
    """Finds no face, and says whether an image might be one."""

    def __init__(self, resembles: bool) -> None:
        self.resembles = resembles

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        return []

    def resembles_face(self, image: np.ndarray) -> bool:
        return self.resembles


@pytest.mark.parametrize(
    ("height", "width", "whole"),
    [(48, 48, True), (128, 100, True), (100, 128, True), (129, 129, False), (96, 128, False), (20, 48, False)],
)
def test_a_face_crop_is_small_and_nearly_square(height: int, width: int, whole: bool) -> None:
    boxes = find_faces(np.zeros((height, width, 3), np.uint8), Stub(resembles=True))
    assert [(box.width, box.height, box.whole_image) for box in boxes] == ([(width, height, True)] if whole else [])


def test_a_small_image_that_resembles_no_face_is_not_taken_whole() -> None:
    assert find_faces(np.zeros((48, 48, 3), np.uint8), Stub(resembles=False)) == []


def test_a_drawn_face_that_haar_misses_is_taken_whole(face_folder: Path) -> None:
    detector = HaarDetector()
    faces = [decode_rgb(file.read_bytes()) for file in sorted(face_folder.rglob("*.png"))]
    missed = [face for face in faces if not detector.detect(face)]
    assert len(missed) > 10
    whole = [box.whole_image for face in missed for box in find_faces(face, detector)]
    assert all(whole)
    assert 0.2 < len(whole) / len(missed) < 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (30, 40), (400, 300)])
def test_an_image_of_any_shape_without_a_face_has_none(shape: tuple[int, int]) -> None:
    assert find_faces(np.zeros((*shape, 3), np.uint8), HaarDetector()) == []


def test_an_image_that_opencv_cannot_process_says_so() -> None:
    class Broken(Stub):
        def detect(self, image: np.ndarray) -> list[FaceBox]:
            cv2.resize(image[:0], (8, 8))
            return []

    with pytest.raises(BadRow, match="face detection failed"):
        find_faces(np.zeros((9, 9, 3), np.uint8), Broken(resembles=False))
