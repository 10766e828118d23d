"""Detectors on real photos, and the geometry of cropping and aligning."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.data.images import decode_rgb
from fer.errors import UserError
from fer.faces import MAX_SIDE, FaceBox, align, crop, eye_angle, find_yunet, open_detector

FACES = {"selfie-many-people.jpg": 6, "img54.jpg": 4, "surprised.jpg": 1, "disgusted.jpg": 1}


def photo(shared_data: Path, name: str) -> np.ndarray:
    return decode_rgb((shared_data / "faces" / name).read_bytes())


@pytest.fixture(scope="module")
def yunet_file(shared_data: Path) -> Path:
    return shared_data / "models" / "face_detection_yunet_2026may.onnx"


@pytest.mark.parametrize(("name", "count"), FACES.items())
def test_yunet_finds_every_face(shared_data: Path, yunet_file: Path, name: str, count: int) -> None:
    image = photo(shared_data, name)
    boxes = open_detector("yunet", yunet_file).detect(image)
    assert len(boxes) == count
    assert [box.area for box in boxes] == sorted((box.area for box in boxes), reverse=True)
    for box in boxes:
        assert box.score is not None
        assert 0.6 <= box.score <= 1
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.width <= image.shape[1]
        assert box.y + box.height <= image.shape[0]
        assert box.landmarks is not None
        x, y = box.landmarks[2]  # the tip of the nose
        assert box.x < x < box.x + box.width
        assert box.y < y < box.y + box.height


def test_boxes_of_a_downscaled_image_are_in_original_pixels(shared_data: Path, yunet_file: Path) -> None:
    image = photo(shared_data, "surprised.jpg")
    large = cv2.resize(image, None, fx=4, fy=4)
    assert max(large.shape) > MAX_SIDE
    detector = open_detector("yunet", yunet_file)
    (box,), (large_box,) = detector.detect(image), detector.detect(large)
    for side in ("x", "y", "width", "height"):  # YuNet's boxes differ a little from scale to scale
        assert getattr(large_box, side) / 4 == pytest.approx(getattr(box, side), abs=0.25 * box.width)
    assert box.landmarks is not None
    assert large_box.landmarks is not None
    np.testing.assert_allclose(large_box.landmarks / 4, box.landmarks, atol=0.08 * box.width)


def test_one_detector_takes_images_of_any_size(shared_data: Path, yunet_file: Path) -> None:
    detector = open_detector("yunet", yunet_file)
    assert [len(detector.detect(photo(shared_data, name))) for name in FACES] == list(FACES.values())
    assert detector.detect(np.zeros((50, 400, 3), np.uint8)) == []


def test_haar_needs_no_model_file(shared_data: Path) -> None:
    boxes = open_detector("haar").detect(photo(shared_data, "surprised.jpg"))
    assert boxes
    assert boxes[0].score is None
    assert boxes[0].landmarks is None
    assert 0.15 < boxes[0].width / 500 < 0.9


def test_none_gives_the_whole_image() -> None:
    (box,) = open_detector("none").detect(np.zeros((30, 40, 3), np.uint8))
    assert (box.x, box.y, box.width, box.height, box.score) == (0, 0, 40, 30, None)


def test_a_missing_model_says_how_to_download_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"OpenCV Zoo.*--detector-model.*--detector haar") as error:
        open_detector("yunet")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"no detector model at .*nowhere\.onnx"):
        open_detector("yunet", tmp_path / "nowhere.onnx")


def test_model_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_CACHE", str(tmp_path))
    for year in (2022, 2023):
        (tmp_path / f"face_detection_yunet_{year}mar.onnx").touch()
    assert find_yunet().name == "face_detection_yunet_2023mar.onnx"


def test_a_file_that_is_not_a_model_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"hello")
    with pytest.raises(UserError, match="is not a YuNet model"):
        open_detector("yunet", tmp_path / "model.onnx")


def test_unknown_detector() -> None:
    with pytest.raises(UserError, match="none, haar, yunet"):
        open_detector("retina")  # type: ignore[arg-type]


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
    upright = align(image, FaceBox(30, 30, 60, 60, landmarks=landmarks))
    assert upright.shape == image.shape
    for channel, expected in ((0, (40, 50)), (1, (80, 50))):
        ys, xs = np.nonzero(upright[..., channel] > 127)
        assert (xs.mean(), ys.mean()) == pytest.approx(expected, abs=1.5)


def test_align_without_landmarks_changes_nothing() -> None:
    image = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    np.testing.assert_array_equal(align(image, FaceBox(0, 0, 10, 10)), image)


def test_align_levels_a_real_face(shared_data: Path, yunet_file: Path) -> None:
    image = photo(shared_data, "surprised.jpg")
    detector = open_detector("yunet", yunet_file)
    turn = cv2.getRotationMatrix2D((image.shape[1] / 2, image.shape[0] / 2), 25, 1.0)
    tilted = cv2.warpAffine(image, turn, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    (box,) = detector.detect(tilted)
    assert box.landmarks is not None
    assert eye_angle(box.landmarks) < -15
    (upright,) = detector.detect(align(tilted, box))
    assert upright.landmarks is not None
    assert abs(eye_angle(upright.landmarks)) < 5
