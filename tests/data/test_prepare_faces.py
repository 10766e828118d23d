"""`fer prepare --detector`: faces are found in photographs, aligned and cut out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from skimage import data as pictures

from fer.data.images import decode_rgb, encode_png
from fer.data.manifest import ShardedDataset
from fer.data.options import PrepareOptions
from fer.data.prepare import prepare
from fer.errors import UserError
from fer.faces.box import FaceBox, eye_angle
from fer.faces.detectors import open_detector
from fer.faces.find import FaceCutter
from fer.faces.options import FaceOptions, Preprocessing

MakeOptions = Callable[..., PrepareOptions]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A data set of a portrait, and of a picture without a face."""
    (tmp_path / "data/happy").mkdir(parents=True)
    for name, image in {"portrait": pictures.astronaut()[:320], "coffee": pictures.coffee()}.items():
        (tmp_path / f"data/happy/{name}.png").write_bytes(encode_png(image))
    return tmp_path / "data"


def stored_images(dataset: ShardedDataset) -> dict[str, np.ndarray]:
    """The pixels of each row by the stem of its path."""
    tables = [pq.read_table(dataset.path(shard)) for shard in dataset.split("train").shards]
    rows = [row for table in tables for row in table.to_pylist()]
    return {Path(row["path"]).stem: decode_rgb(row["image"]) for row in rows}


def test_faces_are_cut_out_and_pictures_without_one_are_rejected(
    photographs: Path, prepare_options: MakeOptions, tmp_path: Path
) -> None:
    options = prepare_options(photographs, detector="haar", margin=0.2, val_split=0, max_bad_fraction=0)
    dataset = prepare(options)
    preprocessing = Preprocessing(detector="haar", margin=0.2, align=False)
    assert dataset.manifest.preprocessing == preprocessing
    assert dataset.manifest.rejected == {"no face found": 1}
    rejected = [json.loads(line) for line in (tmp_path / "shards/rejected.jsonl").read_text().splitlines()]
    assert rejected == [{"path": "data/happy/coffee.png", "reason": "no face found"}]
    expected = FaceCutter(preprocessing).cut(decode_rgb((photographs / "happy/portrait.png").read_bytes()))
    np.testing.assert_array_equal(stored_images(dataset)["portrait"], expected)
    assert expected.shape[0] < 250
    with pytest.raises(UserError, match="other data or options"):
        prepare(prepare_options(photographs, detector="haar", margin=0.3, val_split=0))


def test_photographs_without_any_face_are_a_user_error(
    photographs: Path, prepare_options: MakeOptions, tmp_path: Path
) -> None:
    (photographs / "happy/portrait.png").unlink()
    with pytest.raises(UserError, match=r"--detector haar found no face in .*data: leave it out"):
        prepare(prepare_options(photographs, detector="haar", val_split=0))
    assert not (tmp_path / "shards").exists()


def test_faces_are_aligned(photographs: Path, prepare_options: MakeOptions, shared_data: Path) -> None:
    image = cv2.imread(str(shared_data / "faces/surprised.jpg"))[..., ::-1]
    turn = cv2.getRotationMatrix2D((image.shape[1] / 2, image.shape[0] / 2), 25, 1.0)
    tilted = cv2.warpAffine(image, turn, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    (photographs / "happy/tilted.png").write_bytes(encode_png(tilted))
    model = str(shared_data / "models/face_detection_yunet_2026may.onnx")
    shared = {"detector": "yunet", "detector_model": model, "margin": 0.5, "val_split": 0}
    detector = open_detector(FaceOptions(detector="yunet", detector_model=model))

    def angle(image: np.ndarray) -> float:
        box: FaceBox = detector.detect(image)[0]
        assert box.landmarks is not None
        return abs(eye_angle(box.landmarks))

    as_they_are = stored_images(prepare(prepare_options(photographs, **shared)))
    dataset = prepare(prepare_options(photographs, align=True, overwrite=True, **shared))
    assert dataset.manifest.preprocessing == Preprocessing(
        detector="yunet", detector_file="face_detection_yunet_2026may.onnx", margin=0.5, align=True
    )
    assert angle(as_they_are["tilted"]) > 12
    assert angle(stored_images(dataset)["tilted"]) < 5


def test_alignment_needs_a_detector_that_finds_eyes(prepare_options: MakeOptions) -> None:
    for detector in ("none", "haar"):
        with pytest.raises(ValueError, match="--align needs --detector yunet"):
            prepare_options("x", detector=detector, align=True)


def test_align_with_auto_needs_yunet(
    photographs: Path, prepare_options: MakeOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FER_CACHE", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="--align needs YuNet"):
        prepare(prepare_options(photographs, detector="auto", align=True))
