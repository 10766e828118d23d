"""The served model's files, for a browser that runs the model itself."""

from __future__ import annotations

from pathlib import Path

from fastapi import HTTPException
from fastapi.responses import FileResponse
from pydantic import Field

from fer.classifier.spec import ModelSpec
from fer.faces.detectors import choose_detector
from fer.models.folder import read_spec
from fer.registry import BUNDLED, GRAPH, SPEC, WEIGHTS, resolve_model
from serve_apps.options import ServeConfig
from serve_apps.schema import ClassifierInfo, Schema

DETECTOR = "yunet.onnx"
CACHE = "private, max-age=31536000, immutable"  # an address contains the version


class DeviceModel(Schema):
    """What a browser needs to know to run the served model."""

    name: str
    version: str
    labels: list[str]
    img_size: int = Field(description="Side of the network's input, in pixels")
    channels: int = Field(description="1: grey, 3: RGB")
    temperature: float = Field(description="Divides the logits before the softmax")
    margin: float = Field(description="Enlarge each face box by this fraction of its size before cropping")
    min_confidence: float = Field(description="Mark faces with a confidence below this as uncertain")
    detector: bool = Field(description="Whether the file of a face detector (YuNet) is offered")
    files: dict[str, str] = Field(description="Address of each file: graph, weights, detector")


def device_model(info: ClassifierInfo, config: ServeConfig) -> DeviceModel:
    """The description of the served model. Raises HTTPException 404 if it is not offered."""
    spec = read_spec(_folder(info, config), ModelSpec)
    if config.align:
        raise HTTPException(404, "the model reads aligned faces, and browsers do not align them")
    detector = choose_detector(config).detector == "yunet"
    names = {"graph": GRAPH, "weights": WEIGHTS, **({"detector": DETECTOR} if detector else {})}
    return DeviceModel(
        name=info.name,
        version=info.version,
        labels=info.labels,
        img_size=spec.options.img_size,
        channels=spec.options.in_chans,
        temperature=spec.temperature,
        margin=config.margin,
        min_confidence=config.min_confidence,
        detector=detector,
        files={key: f"v1/model/{info.version}/{name}" for key, name in names.items()},
    )


def device_file(version: str, name: str, info: ClassifierInfo, config: ServeConfig) -> FileResponse:
    """A file of `device_model`. Raises HTTPException 404 for any other, and for another version than the served one."""
    folder = _folder(info, config)
    if version != info.version:
        raise HTTPException(404, f"version {version} is not served any more; now it is {info.version}")
    if name in (SPEC, GRAPH, WEIGHTS):
        file = folder / name
    elif name == DETECTOR and (detector := choose_detector(config)).detector == "yunet":
        assert detector.detector_model
        file = Path(detector.detector_model)
    else:
        raise HTTPException(404, f"no file {name!r}")
    return FileResponse(file, media_type="application/octet-stream", headers={"Cache-Control": CACHE})


def _folder(info: ClassifierInfo, config: ServeConfig) -> Path:
    """The folder of the served version. Raises HTTPException 404 unless its files may be given away."""
    registered = config.model.startswith("models:/")
    folder = resolve_model(f"models:/{info.name}/{info.version}" if registered else config.model, config)
    if not (config.on_device or folder.resolve().parent == BUNDLED.resolve()):
        raise HTTPException(404, "this server does not offer its model to browsers: it was started without --on-device")
    if not (folder / GRAPH).is_file():
        raise HTTPException(404, f"the model has no {GRAPH}: export it with `fer export`, and serve the result")
    return folder
