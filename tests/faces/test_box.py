"""The geometry of cropping and aligning."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.faces.box import FaceBox, crop, eye_angle, whole_image

boxes = st.builds(
    FaceBox,
    x=st.floats(-20, 60),
    y=st.floats(-20, 60),
    width=st.floats(0.5, 80),
    height=st.floats(0.5, 80),
)


@given(boxes, st.floats(0, 1))
def test_crop_is_a_square_of_the_longer_side_and_margins(box: FaceBox, margin: float) -> None:
    image = np.zeros((50, 60, 3), np.uint8)
    height, width, channels = crop(image, box, margin).shape
    assert height == width
    assert abs(width - max(box.width, box.height) * (1 + 2 * margin)) <= 1
    assert channels == 3


@given(boxes)
def test_crop_repeats_edge_pixels_outside_the_image(box: FaceBox) -> None:
    """Pixels hold their own coordinates, so the crop must hold coordinates clipped to the image."""
    rows, columns = np.mgrid[:50, :60]
    image = np.stack([columns, rows, columns], axis=-1).astype(np.uint8)
    cut = crop(image, box, 0.0)
    side = len(cut)
    left, top = round(box.centre[0] - side / 2), round(box.centre[1] - side / 2)
    np.testing.assert_array_equal(cut[0, :, 0], np.clip(np.arange(left, left + side), 0, 59))
    np.testing.assert_array_equal(cut[:, 0, 1], np.clip(np.arange(top, top + side), 0, 49))


@given(st.floats(-179, 179))
def test_align_levels_the_eyes(tilt: float) -> None:
    """Two blobs for eyes, rotated about the box: they come out level, the person's right eye on the left."""
    centre, radians = np.array([60.0, 60.0]), np.radians(tilt)
    across = np.array([np.cos(radians), np.sin(radians)])
    down = np.array([-np.sin(radians), np.cos(radians)])
    right_eye, left_eye = centre - 20 * across - 10 * down, centre + 20 * across - 10 * down
    landmarks = np.stack([right_eye, left_eye, centre, centre, centre])
    assert eye_angle(landmarks) == pytest.approx(tilt)

    image = np.zeros((121, 121, 3), np.uint8)
    cv2.circle(image, np.round(right_eye).astype(int).tolist(), 4, (255, 0, 0), -1)
    cv2.circle(image, np.round(left_eye).astype(int).tolist(), 4, (0, 255, 0), -1)
    upright = crop(image, FaceBox(30, 30, 60, 60, landmarks=landmarks), 0.25, align=True)
    assert upright.shape == (90, 90, 3)
    for channel, expected in ((0, (25, 35)), (1, (65, 35))):
        ys, xs = np.nonzero(upright[..., channel] > 127)
        assert (xs.mean(), ys.mean()) == pytest.approx(expected, abs=1.5)


def turned(box: FaceBox, angle: float) -> FaceBox:
    """The box, with eyes that are ``angle`` radians from level."""
    across = np.array([np.cos(angle), np.sin(angle)])
    return replace(box, landmarks=np.array([box.centre - 10 * across, box.centre + 10 * across] + [box.centre] * 3))


@given(
    st.builds(FaceBox, x=st.floats(0, 150), y=st.floats(0, 80), width=st.floats(1, 50), height=st.floats(1, 40)),
    st.floats(-3.14, 3.14),
    st.floats(0, 1),
)
def test_align_is_a_rotation_of_the_whole_image(box: FaceBox, angle: float, margin: float) -> None:
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8), (200, 120))
    box = turned(box, angle)
    aligned = crop(image, box, margin, align=True)
    rotation = cv2.getRotationMatrix2D(box.centre, eye_angle(box.landmarks), 1.0)  # type: ignore[arg-type]
    rotation[:, 2] -= [round(middle - len(aligned) / 2) for middle in box.centre]
    whole = cv2.warpAffine(image, rotation, aligned.shape[:2], borderMode=cv2.BORDER_REPLICATE)
    assert cv2.absdiff(aligned, whole).max() <= 1


def test_a_face_in_an_image_that_is_too_wide_for_opencv_is_aligned() -> None:
    image = np.tile(np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8), (1, 330, 1))
    boxes = [turned(FaceBox(x, 20, 40, 40), 0.3) for x in (30, 32_030)]  # where the image is the same
    first, second = (crop(image, box, 0.1, align=True) for box in boxes)
    assert cv2.absdiff(first, second).max() <= 1


def test_align_without_landmarks_changes_nothing() -> None:
    image = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    box = FaceBox(2, 2, 5, 5)
    np.testing.assert_array_equal(crop(image, box, 0.1, align=True), crop(image, box, 0.1))


def test_level_eyes_need_no_rotation() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    landmarks = np.array([[15.0, 15], [25, 15], [20, 20], [16, 25], [24, 25]])
    box = FaceBox(10, 10, 20, 20)
    aligned = crop(image, replace(box, landmarks=landmarks), 0.1, align=True)
    np.testing.assert_array_equal(aligned, crop(image, box, 0.1))


def test_an_image_that_is_one_face_is_not_cropped() -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    box = whole_image(image)
    assert (box.x, box.y, box.width, box.height, box.score, box.whole_image) == (0, 0, 40, 30, None, True)
    assert crop(image, box, 0.2) is image
