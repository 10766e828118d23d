"""Options of `fer dynamics extract`, `predict` and `import-blendshapes`. Plain values, no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from fer.options import Options
from fer.tracking import TrackingOptions


class ExtractionOptions(Options):
    """How frame pairs are extracted from a video."""

    landmarker: str | None = Field(
        None, description="MediaPipe's Face Landmarker bundle (.task); unset: the newest in the cache folder"
    )
    baseline: int | None = Field(
        None,
        ge=0,
        description="Number of the baseline frame (face at rest), from 0; unset: the stillest of the first third",
    )
    frame_stride: int = Field(1, ge=1, description="Use every N-th frame")
    flow: Literal["dis", "raft"] = Field("dis", description="Optical flow: OpenCV's DIS, or torchvision's RAFT (slow)")


class ExtractConfig(ExtractionOptions):
    """Extract frames to be labelled, as flow images and landmarks, from videos that show one face each."""

    videos: CliPositionalArg[list[str]] = Field(min_length=1, description="Video files")
    out: str = Field(description="Output folder")
    expression: str = Field(
        "unnamed", pattern=r"^[\w.-]+$", description="The movement that the videos show, such as smile"
    )


class DynamicsPredictConfig(ExtractionOptions, TrackingOptions):
    """Score videos (over time, as CSV and plot) and folders of frames. Research scores, not a diagnosis."""

    model: str = Field(description="Model: a folder, a run, runs:/ID/model or models:/NAME@ALIAS")
    paths: CliPositionalArg[list[str]] = Field(min_length=1, description="Videos, and folders or zips of frames")
    out: str = Field("scores", description="Output folder for tables and plots")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="Device to run on; auto: a GPU if there is one")


class ImportBlendshapesConfig(Options):
    """Convert MediaPipe's blendshape network to initial weights of the landmark net."""

    file: CliPositionalArg[str] = Field(description="face_blendshapes.tflite, or the .task bundle that contains it")
    out: str = Field("blendshapes.safetensors", description="Output file")
