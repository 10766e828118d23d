"""The served model's files, for a browser that runs the model itself."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from fastapi import HTTPException
from fastapi.responses import FileResponse
from pydantic import Field

from fer.classifier.spec import ModelSpec
from fer.faces.detectors import choose_detector
from fer.models.folder import read_spec
from fer.registry import BUNDLED, GRAPH, WEIGHTS, resolve_model
from serve_apps.options import ServeConfig
from serve_apps.schema import ClassifierInfo, Schema

DETECTOR = "yunet.onnx"
KEYS = {GRAPH: "graph", WEIGHTS: "weights", DETECTOR: "detector"}
CACHE = "private, max-age=31536000, immutable"  # an address contains the file's digest


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
    files = _files(info, config)
    return DeviceModel(
        name=info.name,
        version=info.version,
        labels=info.labels,
        img_size=spec.options.img_size,
        channels=spec.options.in_chans,
        temperature=spec.temperature,
        margin=config.margin,
        min_confidence=config.min_confidence,
        detector=DETECTOR in files,
        files={KEYS[name]: f"v1/model/{_digest_now(file)}/{name}" for name, file in files.items()},
    )


def device_file(digest: str, name: str, info: ClassifierInfo, config: ServeConfig) -> FileResponse:
    """A file of `device_model`. Raises HTTPException 404 for any other, and for one that was replaced since."""
    file = _files(info, config).get(name)
    if file is None:
        raise HTTPException(404, f"no file {name!r}")
    if digest != _digest_now(file):
        raise HTTPException(404, f"this {name} is not served any more; reload the page")
    return FileResponse(file, media_type="application/octet-stream", headers={"Cache-Control": CACHE})


def _files(info: ClassifierInfo, config: ServeConfig) -> dict[str, Path]:
    """The offered files by their names. Raises HTTPException 404 if the model is not offered."""
    folder = _folder(info, config)
    files = {GRAPH: folder / GRAPH, WEIGHTS: folder / WEIGHTS}
    if (detector := choose_detector(config)).detector == "yunet":
        assert detector.detector_model
        files[DETECTOR] = Path(detector.detector_model)
    return files


def _digest_now(file: Path) -> str:
    return _digest(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _digest(file: Path, modified: int) -> str:
    """What tells a file from those that a browser has kept, also of other models with the same version number."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _folder(info: ClassifierInfo, config: ServeConfig) -> Path:
    """The folder of the served version. Raises HTTPException 404 unless its files may be given away."""
    registered = config.model.startswith("models:/")
    folder = resolve_model(f"models:/{info.name}/{info.version}" if registered else config.model, config)
    if not (config.on_device or folder.resolve().parent == BUNDLED.resolve()):
        raise HTTPException(404, "this server does not offer its model to browsers: it was started without --on-device")
    if not (folder / GRAPH).is_file():
        raise HTTPException(404, f"the model has no {GRAPH}: export it with `fer export`, and serve the result")
    return folder
