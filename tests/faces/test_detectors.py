"""Detectors on real photos, and the choice between them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer.data.images import decode_rgb
from fer.errors import UserError
from fer.faces.box import FaceBox, crop, eye_angle
from fer.faces.detectors import (
    YUNET_SIDE,
    FaceDetector,
    HaarDetector,
    _box,
    _inside,
    choose_detector,
    merge_looks,
    open_detector,
)
from fer.faces.options import DetectorName, FaceOptions

FACES = {"selfie-many-people.jpg": 6, "img54.jpg": 4, "surprised.jpg": 1, "disgusted.jpg": 1}


def photo(shared_data: Path, name: str) -> np.ndarray:
    return decode_rgb((shared_data / "faces" / name).read_bytes())


@pytest.fixture(scope="module")
def yunet(shared_data: Path) -> FaceDetector:
    return open_detector(options("yunet", shared_data / "models/face_detection_yunet_2026may.onnx"))


@pytest.fixture(scope="module")
def haar() -> FaceDetector:
    return open_detector(options("haar"))


def options(detector: DetectorName, model_file: Path | None = None) -> FaceOptions:
    return FaceOptions(detector=detector, detector_model=str(model_file) if model_file else None)


@pytest.mark.parametrize(("name", "count"), FACES.items())
def test_yunet_finds_every_face(shared_data: Path, yunet: FaceDetector, name: str, count: int) -> None:
    image = photo(shared_data, name)
    boxes = yunet.detect(image)
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


def test_boxes_of_a_downscaled_image_are_in_original_pixels(shared_data: Path, yunet: FaceDetector) -> None:
    image = photo(shared_data, "surprised.jpg")
    large = cv2.resize(image, None, fx=4, fy=4)
    assert max(large.shape) > YUNET_SIDE
    (box,), (large_box,) = yunet.detect(image), yunet.detect(large)
    for side in ("x", "y", "width", "height"):  # YuNet's boxes differ a little from scale to scale
        assert getattr(large_box, side) / 4 == pytest.approx(getattr(box, side), abs=0.25 * box.width)
    assert box.landmarks is not None
    assert large_box.landmarks is not None
    np.testing.assert_allclose(large_box.landmarks / 4, box.landmarks, atol=0.08 * box.width)


def test_one_detector_takes_images_of_any_size(shared_data: Path, yunet: FaceDetector) -> None:
    assert [len(yunet.detect(photo(shared_data, name))) for name in FACES] == list(FACES.values())
    assert yunet.detect(np.zeros((50, 400, 3), np.uint8)) == []


def test_haar_needs_no_model_file(haar: FaceDetector, shared_data: Path) -> None:
    boxes = haar.detect(photo(shared_data, "surprised.jpg"))
    assert boxes
    assert boxes[0].score is None
    assert boxes[0].landmarks is None
    assert 0.15 < boxes[0].width / 500 < 0.9


@pytest.mark.parametrize("side", [48, 100, 350, 1280])
def test_a_face_that_fills_the_image_is_found_once(
    shared_data: Path, yunet: FaceDetector, haar: FaceDetector, side: int
) -> None:
    for name, frontal in {"surprised.jpg": (0,), "img54.jpg": (0, 3), "selfie-many-people.jpg": (1, 2, 3)}.items():
        image = photo(shared_data, name)
        boxes = yunet.detect(image)
        for number in frontal:
            close_up = cv2.resize(crop(image, boxes[number], 0.05), (side, side), interpolation=cv2.INTER_AREA)
            for detector in (yunet, haar):
                (found,) = detector.detect(close_up)
                assert found.height > 0.7 * side


def test_boxes_that_overlap_are_one_face() -> None:
    whole, part, beside = FaceBox(0, 0, 90, 90, 0.8), FaceBox(50, 50, 30, 30, 0.6), FaceBox(80, 0, 95, 95, 0.9)
    assert merge_looks([part, beside], [whole]) == [beside, whole]
    assert merge_looks([part], [FaceBox(0, 0, 90, 90, 0.65)]) == [part]
    same = FaceBox(2, 2, 90, 90, 0.75)
    assert merge_looks([same], [whole]) == [same]
    large, small = FaceBox(0, 0, 90, 90), FaceBox(50, 50, 30, 30)
    assert merge_looks([small], [large]) == merge_looks([large], [small]) == [large]
    assert merge_looks([FaceBox(0, 0, float("nan"), 90, 0.9)], [whole]) == [whole]


def test_detectors_may_be_called_from_several_threads(
    shared_data: Path, yunet: FaceDetector, haar: FaceDetector
) -> None:
    images = [photo(shared_data, name) for name in ("surprised.jpg", "disgusted.jpg")] * 4
    for detector in (yunet, haar):
        expected = [[box.area for box in detector.detect(image)] for image in images[:2]] * 4
        with ThreadPoolExecutor(4) as threads:
            assert [[box.area for box in boxes] for boxes in threads.map(detector.detect, images)] == expected


def test_what_a_detector_finds_outside_the_image_is_no_face() -> None:
    image, nan = np.zeros((20, 20, 3), np.uint8), float("nan")
    found = [(5, 5, 10, 10), (1e20, 5, 10, 10), (-30, 5, 10, 10), (nan, 5, 10, 10), (15, 15, 10, 10)]
    boxes = _inside(_box(corners, 1.0, image) for corners in found)
    assert [(box.x, box.y, box.width, box.height) for box in boxes] == [(5, 5, 10, 10), (15, 15, 5, 5)]


def test_none_gives_the_whole_image() -> None:
    (box,) = open_detector(options("none")).detect(np.zeros((30, 40, 3), np.uint8))
    assert (box.x, box.y, box.width, box.height, box.score, box.whole_image) == (0, 0, 40, 30, None, True)


def test_auto_is_yunet_where_its_file_is_else_haar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_CACHE", str(tmp_path))
    assert choose_detector(options("auto")) == options("haar")
    assert isinstance(open_detector(FaceOptions()), HaarDetector)
    for release in ("2023mar", "2026may"):
        (tmp_path / f"face_detection_yunet_{release}.onnx").touch()
    newest = options("yunet", tmp_path / "face_detection_yunet_2026may.onnx")
    assert choose_detector(options("auto")) == choose_detector(options("yunet")) == newest
    assert choose_detector(newest) == newest
    for other in ("haar", "none"):
        assert choose_detector(options(other)) == options(other)
    monkeypatch.chdir(tmp_path)
    named = choose_detector(options("auto", Path("mine.onnx")))
    assert named == options("yunet", tmp_path / "mine.onnx")


def test_a_missing_model_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"fer fetch yunet.*OpenCV Zoo.*--detector-model.*--detector haar") as error:
        open_detector(options("yunet"))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"no detector model at .*nowhere\.onnx"):
        open_detector(options("auto", tmp_path / "nowhere.onnx"))


def test_a_file_that_is_not_a_model_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"hello")
    with pytest.raises(UserError, match="is not a YuNet model"):
        open_detector(options("yunet", tmp_path / "model.onnx"))


def test_align_levels_a_real_face(shared_data: Path, yunet: FaceDetector) -> None:
    image = photo(shared_data, "surprised.jpg")
    turn = cv2.getRotationMatrix2D((image.shape[1] / 2, image.shape[0] / 2), 25, 1.0)
    tilted = cv2.warpAffine(image, turn, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    (box,) = yunet.detect(tilted)
    assert box.landmarks is not None
    assert eye_angle(box.landmarks) < -15
    (upright,) = yunet.detect(crop(tilted, box, 0.5, align=True))
    assert upright.landmarks is not None
    assert abs(eye_angle(upright.landmarks)) < 5
