"""Which files of the served model browsers may have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fastapi import HTTPException

from fer.registry import BUNDLED, DEFAULT_MODEL
from serve_apps.options import ServeConfig
from serve_apps.page.model_files import device_file, device_model
from serve_apps.schema import ClassifierInfo

INFO = ClassifierInfo(
    name="m", version="1", label_space="ferplus", labels=["happy", "sad"], head="classification", img_size=80
)


@pytest.fixture
def own_model(tmp_path: Path) -> Path:
    """A model that does not come with Ferry."""
    return shutil.copytree(BUNDLED / DEFAULT_MODEL, tmp_path / "own")


def test_the_bundled_model_is_offered() -> None:
    config = ServeConfig(detector="haar")
    model = device_model(INFO, config)
    assert (model.img_size, model.channels, model.detector) == (80, 1, False)
    assert model.temperature == pytest.approx(0.677, abs=1e-3)
    assert model.files == {"graph": "v1/model/1/model.onnx", "weights": "v1/model/1/model.safetensors"}
    response = device_file("1", "model.onnx", INFO, config)
    assert Path(response.path) == BUNDLED / DEFAULT_MODEL / "model.onnx"
    assert "immutable" in response.headers["cache-control"]


def test_another_model_is_offered_with_the_option_only(own_model: Path) -> None:
    with pytest.raises(HTTPException, match="--on-device") as refused:
        device_model(INFO, ServeConfig(model=str(own_model), detector="haar"))
    assert refused.value.status_code == 404
    with pytest.raises(HTTPException, match="--on-device"):
        device_file("1", "model.safetensors", INFO, ServeConfig(model=str(own_model), detector="haar"))
    assert device_model(INFO, ServeConfig(model=str(own_model), detector="haar", on_device=True)).files["graph"]


def test_a_model_without_a_graph_is_not_offered(own_model: Path) -> None:
    (own_model / "model.onnx").unlink()
    with pytest.raises(HTTPException, match="fer export"):
        device_model(INFO, ServeConfig(model=str(own_model), detector="haar", on_device=True))


@pytest.mark.parametrize(
    ("version", "name"),
    [("2", "model.onnx"), ("1", "README.md"), ("1", "../ferry-small/model.onnx"), ("1", "yunet.onnx")],
)
def test_no_other_file_is_offered(version: str, name: str) -> None:
    with pytest.raises(HTTPException) as refused:
        device_file(version, name, INFO, ServeConfig(detector="haar"))
    assert refused.value.status_code == 404


def test_the_detectors_file_is_offered_if_the_server_uses_it(tmp_path: Path) -> None:
    file = tmp_path / "face_detection_yunet_2026may.onnx"
    file.write_bytes(b"a network")
    config = ServeConfig(detector="auto", detector_model=str(file))
    assert device_model(INFO, config).files["detector"] == "v1/model/1/yunet.onnx"
    assert Path(device_file("1", "yunet.onnx", INFO, config).path) == file
