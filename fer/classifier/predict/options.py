"""Options of `fer predict`: what is read, how faces are found, and what the answer looks like."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg, CliVariadicArg

from fer.options import Options
from fer.tracking import TrackingOptions


class FaceOptions(Options):
    """Where in a picture the faces are."""

    detector: Literal["none", "haar", "yunet"] = Field(
        "none", description="Face detector; none takes each image as one face"
    )
    detector_model: str | None = Field(None, description="Model file of the detector (yunet: its .onnx file)")
    margin: float = Field(0.2, ge=0, le=2, description="Widen each face box by this share of its size before cropping")


class VideoOptions(Options):
    """How videos are read, and how answers are averaged over time."""

    every: int = Field(1, ge=1, description="Read every so many frames of a video")
    smooth: float = Field(
        0.0, ge=0, description="Average each face's answers over so many seconds of video, to calm flicker; 0: off"
    )
    smoothing: Literal["centred", "exponential"] = Field(
        "centred",
        description="Average over a window around each frame, or over the past with exponentially falling weight",
    )


class PredictConfig(FaceOptions, VideoOptions, TrackingOptions):
    """Read expressions from images, folders and videos: one row per face, as a table, JSON lines or CSV."""

    model: CliPositionalArg[str] = Field(description="Model: a folder, a run, runs:/ID/model or models:/NAME@ALIAS")
    paths: CliPositionalArg[list[str]] = Field(
        min_length=1, description="Images, videos, folders (searched with their sub-folders) and glob patterns"
    )
    ensemble: CliVariadicArg[list[str]] = Field(
        [], description="Further models whose answers are averaged with MODEL's"
    )
    tta: bool = Field(False, description="Average each answer with that of the mirror image")
    compound: bool = Field(
        False, description="Also give RAF-DB's compound label of the two likeliest expressions, where they make one"
    )
    min_confidence: float = Field(
        0.0, ge=0, le=1, description="Label a face `uncertain` if its best label has a lower probability; 0: off"
    )
    format: Literal["auto", "table", "jsonl", "csv"] = Field(
        "auto", description="Form of the answer; auto: a table on a terminal, JSON lines elsewhere, CSV to a .csv file"
    )
    out: str | None = Field(None, description="Write the answer to this file instead of standard output")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="What to compute on; auto: a GPU if there is one")
    ray_above: int = Field(
        500, ge=0, description="Spread the work over Ray if there are more files than this (or if RAY_ADDRESS is set)"
    )
    workers: int = Field(
        0, ge=0, description="Ray workers, each with its own copy of the model; 0: one per GPU, else one per free CPU"
    )
