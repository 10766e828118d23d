"""Options of face detection and cropping."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fer.options import Options

DetectorName = Literal["auto", "none", "haar", "yunet"]

MARGIN = 0.05
"""The margin around a face that `ferry-small` reads best (docs/performance.md): FER2013's pictures, too, are tight."""


class FaceOptions(Options):
    """Face detection and cropping."""

    detector: DetectorName = Field(
        "auto",
        description="Face detector; auto: yunet if its model file is there (`fer fetch yunet`), else haar, which needs "
        "no file; none: each image is one face",
    )
    detector_model: str | None = Field(
        None, description="Model file of yunet (.onnx); unset: the newest one in the cache folder"
    )
    margin: float = Field(
        MARGIN, ge=0, le=2, description="Enlarge each face box by this fraction of its size before cropping"
    )
    align: bool = Field(False, description="Rotate each face until its eyes are level (with yunet)")


class Preprocessing(Options):
    """How faces are found in photographs and cut out. Shards record it, and the models that are trained on them."""

    detector: Literal["haar", "yunet"]
    detector_file: str | None = None
    """Name of the file of YuNet's model: another one finds slightly different boxes."""
    margin: float
    align: bool
    """Whether faces are rotated until the eyes are level."""

    def __str__(self) -> str:
        file = f" ({self.detector_file})" if self.detector_file else ""
        return f"{self.detector}{file}, margin {self.margin:g}{', eyes level' if self.align else ''}"
