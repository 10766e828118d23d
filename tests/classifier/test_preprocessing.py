"""A model cuts faces out of photographs as its training data were: training and inference can't differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from skimage import data as pictures

from fer.classifier.evaluate.evaluator import evaluate
from fer.classifier.model import build_model, new_spec, save_model
from fer.classifier.options import ModelOptions
from fer.classifier.predict.options import PredictConfig
from fer.classifier.predict.pipeline import FilePredictor
from fer.classifier.predictor import Predictor
from fer.data.images import encode_png
from fer.data.manifest import ShardedDataset
from fer.data.options import PrepareOptions
from fer.data.prepare import prepare
from fer.errors import UserError
from fer.faces.options import Preprocessing
from fer.labels import get_space

YUNET = "face_detection_yunet_2026may.onnx"


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "data/happy/portrait.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(encode_png(pictures.astronaut()[:320]))
    return path


@pytest.fixture
def trained(tmp_path: Path) -> Callable[[Preprocessing | None], Path]:
    """trained(preprocessing): the folder of an untrained network whose training data were cut out like that."""

    def make(preprocessing: Preprocessing | None, name: str = "model") -> Path:
        spec = new_spec(
            ModelOptions(backbone="test_resnet", img_size=32), get_space("basic"), preprocessing=preprocessing
        )
        save_model(build_model(spec), spec, tmp_path / name)
        return tmp_path / name

    return make


def prepared(photograph: Path, **options: object) -> ShardedDataset:
    out = str(photograph.parents[2] / "shards")
    return prepare(PrepareOptions(data=str(photograph.parents[1]), out=out, val_split=0, **options))  # type: ignore[arg-type]


def predict_config(model: Path, **options: object) -> PredictConfig:
    return PredictConfig(model=str(model), paths=["x"], device="cpu", **options)  # type: ignore[arg-type]


def stored_image(dataset: ShardedDataset) -> np.ndarray:
    import pyarrow.parquet as pq

    from fer.data.images import decode_rgb

    return decode_rgb(pq.read_table(dataset.path(dataset.split("train").shards[0]))["image"][0].as_py())


@pytest.mark.parametrize("detector", ["haar", "yunet"])
def test_prediction_cuts_faces_out_as_training_did(
    photograph: Path, trained: Callable[..., Path], detector: str, request: pytest.FixtureRequest
) -> None:
    options: dict[str, object] = {"detector": detector, "margin": 0.3}
    given = {}
    if detector == "yunet":
        given["detector_model"] = str(request.getfixturevalue("shared_data") / "models" / YUNET)
        options |= {"align": True, **given}
    dataset = prepared(photograph, **options)
    model = trained(dataset.manifest.preprocessing)
    reader = FilePredictor([model], predict_config(model, **given), Path.cwd()).reader
    face = next(reader.crop_images([(str(photograph), pictures.astronaut()[:320])]))  # the largest
    assert face.pixels is not None
    np.testing.assert_array_equal(face.pixels, stored_image(dataset))


def test_options_that_differ_from_training_are_refused(photograph: Path, trained: Callable[..., Path]) -> None:
    model = trained(Preprocessing(detector="haar", margin=0.3, align=False))
    for options in ({"margin": 0.1}, {"detector": "yunet"}, {"align": True}):
        with pytest.raises(UserError, match=r"was trained on faces that were cut out by haar, margin 0\.3: leave out"):
            FilePredictor([model], predict_config(model, **options), Path.cwd())
    FilePredictor([model], predict_config(model, margin=0.3, detector="haar"), Path.cwd())
    images_of_faces = FilePredictor([model], predict_config(model, detector="none"), Path.cwd())
    assert images_of_faces.options.detector == "none"


def test_another_detector_file_is_refused(trained: Callable[..., Path], tmp_path: Path) -> None:
    model = trained(Preprocessing(detector="yunet", detector_file=YUNET, margin=0.3, align=True))
    other = tmp_path / "face_detection_yunet_2023mar.onnx"
    other.write_bytes(b"")
    with pytest.raises(UserError, match=f"found with {YUNET}, which is not .*2023mar.onnx"):
        FilePredictor([model], predict_config(model, detector_model=str(other)), Path.cwd())


def test_an_ensemble_must_agree(trained: Callable[..., Path]) -> None:
    first = trained(Preprocessing(detector="haar", margin=0.3, align=False), "first")
    second = trained(Preprocessing(detector="haar", margin=0.1, align=False), "second")
    with pytest.raises(UserError, match="cut out of photographs in the same way"):
        FilePredictor([first, second], predict_config(first), Path.cwd())


def test_evaluation_needs_faces_that_were_cut_out_in_the_same_way(
    photograph: Path, trained: Callable[..., Path]
) -> None:
    dataset = prepared(photograph, detector="haar", margin=0.3)
    same = Predictor([trained(dataset.manifest.preprocessing)], "cpu")
    assert evaluate(same, dataset, "train").coverage.rows == 1
    unknown = Predictor([trained(None, "unknown")], "cpu")
    assert evaluate(unknown, dataset, "train").coverage.rows == 1
    other = Predictor([trained(Preprocessing(detector="haar", margin=0.1, align=False), "other")], "cpu")
    with pytest.raises(UserError, match=r"trained on faces that were cut out by haar, margin 0\.1"):
        evaluate(other, dataset, "train")
