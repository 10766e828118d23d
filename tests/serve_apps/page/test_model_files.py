"""Which files of the served model browsers may have."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from fastapi import HTTPException
from fastapi.responses import FileResponse

from fer.registry import BUNDLED, DEFAULT_MODEL
from serve_apps.options import ServeConfig
from serve_apps.page.model_files import device_file, device_model
from serve_apps.schema import ClassifierInfo

INFO = ClassifierInfo(
    name="m", version="1", label_space="ferplus", labels=["happy", "sad"], head="classification", img_size=80
)


def ask(address: str, config: ServeConfig) -> FileResponse:
    """The response to an address of `DeviceModel.files`."""
    digest, name = address.removeprefix("v1/model/").split("/")
    return device_file(digest, name, INFO, config)


@pytest.fixture
def own_model(tmp_path: Path) -> Path:
    """A model that does not come with Ferry."""
    return shutil.copytree(BUNDLED / DEFAULT_MODEL, tmp_path / "own")


def test_the_bundled_model_is_offered() -> None:
    config = ServeConfig(detector="haar")
    model = device_model(INFO, config)
    assert (model.img_size, model.channels, model.detector) == (80, 1, False)
    assert model.temperature == pytest.approx(0.677, abs=1e-3)
    assert set(model.files) == {"graph", "weights"}
    response = ask(model.files["graph"], config)
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
    "path",
    ["1/model.onnx", "{}/README.md", "{}/model.json", "{}/../ferry-small/model.onnx", "{}/yunet.onnx"],
)
def test_no_other_file_is_offered(path: str) -> None:
    config = ServeConfig(detector="haar")
    digest = device_model(INFO, config).files["graph"].split("/")[2]
    with pytest.raises(HTTPException) as refused:
        device_file(*path.format(digest).split("/", 1), INFO, config)
    assert refused.value.status_code == 404


def test_the_detectors_file_is_offered_if_the_server_uses_it(tmp_path: Path) -> None:
    file = tmp_path / "face_detection_yunet_2026may.onnx"
    file.write_bytes(b"a network")
    config = ServeConfig(detector="auto", detector_model=str(file))
    assert Path(ask(device_model(INFO, config).files["detector"], config).path) == file


def test_an_address_never_stands_for_another_file(own_model: Path) -> None:
    """Browsers keep the files for a year, and versions of registered models are 1, 2, and so on."""
    config = ServeConfig(model=str(own_model), detector="haar", on_device=True)
    before = device_model(INFO, config).files
    weights = own_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    os.utime(weights, (1, 1))  # as if it was an older file
    after = device_model(INFO, config).files
    assert after["graph"] == before["graph"]
    assert after["weights"] != before["weights"]
    with pytest.raises(HTTPException, match="reload the page"):
        ask(before["weights"], config)
