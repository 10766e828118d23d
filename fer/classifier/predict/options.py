"""Options of `fer predict`: input files, face detection, videos and output."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg, CliVariadicArg

from fer.faces.options import FaceOptions
from fer.options import Options
from fer.registry import DEFAULT_MODEL
from fer.tracking import TrackingOptions


class VideoOptions(Options):
    """Video sampling and smoothing."""

    frame_stride: int = Field(1, ge=1, description="Use every n-th frame of a video")
    smooth: float = Field(
        0.0, ge=0, description="Average the predictions for a face over this many seconds of video; 0: off"
    )
    smoothing: Literal["centred", "exponential"] = Field(
        "centred",
        description="Average over a window around each frame, or over past frames with exponentially decaying weights",
    )


class DrawOptions(Options):
    """Annotated pictures and videos."""

    draw: str | None = Field(
        None, description="Folder for annotated copies of the images and videos, and contact sheets; unset: none"
    )
    explain: bool = Field(
        False, description="Draw beside each face of an image what moved the score of its label; needs --draw"
    )

    @model_validator(mode="after")
    def _explanations_are_drawn(self) -> DrawOptions:
        if self.explain and not self.draw:
            raise ValueError("--explain needs --draw FOLDER: its maps are drawn there")
        return self


class PredictConfig(FaceOptions, VideoOptions, DrawOptions, TrackingOptions):
    """Predict expressions in images, folders and videos: one row per face, as a table, JSON lines or CSV."""

    model: str = Field(
        DEFAULT_MODEL, description="Model: a folder, a run, runs:/ID/model, models:/NAME@ALIAS or a bundled model"
    )
    paths: CliPositionalArg[list[str]] = Field(
        min_length=1, description="Images, videos, folders (searched recursively) and glob patterns"
    )
    ensemble: CliVariadicArg[list[str]] = Field(
        [], description="Further models whose predictions are averaged with those of --model"
    )
    tta: bool = Field(
        False, description="Test-time augmentation: average each prediction with that of the mirror image"
    )
    compound: bool = Field(
        False, description="Also output RAF-DB's compound label of the two most probable expressions, if they form one"
    )
    min_confidence: float = Field(
        0.0, ge=0, le=1, description="Label a face `uncertain` if the probability of its best label is lower; 0: off"
    )
    format: Literal["auto", "table", "jsonl", "csv"] = Field(
        "auto", description="Output format; auto: by the suffix of --out, a table on a terminal, else JSON lines"
    )
    out: str | None = Field(None, description="Output file; unset: standard output")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="Compute device; auto: a GPU if available")
    ray_above: int = Field(500, ge=0, description="Use Ray for more files than this (or if RAY_ADDRESS is set)")
    workers: int = Field(
        0, ge=0, description="Ray workers, each with its own copy of the model; 0: one per GPU, or one per free CPU"
    )
