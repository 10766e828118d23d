"""Options of `fer dynamics extract`, `predict`, `import-blendshapes` and `serve`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from fer.options import Options
from fer.tracking import TrackingOptions


class VideoOptions(Options):
    """How a video becomes frame pairs."""

    landmarker: str | None = Field(
        None, description="MediaPipe's Face Landmarker bundle (.task); unset: looked for in the cache"
    )
    baseline: int | None = Field(
        None,
        ge=0,
        description="Number of the frame at rest, from 0; unset: the stillest one of the video's first third",
    )
    every: int = Field(1, ge=1, description="Take every so many frames")
    flow: Literal["dis", "raft"] = Field("dis", description="Optical flow: OpenCV's DIS, or torchvision's RAFT (slow)")


class ExtractConfig(VideoOptions):
    """Turn videos of one face each into frames to be labelled: flow pictures and landmarks."""

    videos: CliPositionalArg[list[str]] = Field(min_length=1, description="Video files")
    out: str = Field(description="Folder that the frames go to")
    expression: str = Field(
        "unnamed", pattern=r"^[\w.-]+$", description="What the people in the videos were asked to do, such as smile"
    )


class ScorePredictConfig(VideoOptions, TrackingOptions):
    """Score videos (a curve over time, as CSV and picture) and folders of frames. Research scores, not a diagnosis."""

    model: CliPositionalArg[str] = Field(description="Model: a folder, a run, runs:/ID/model or models:/NAME@ALIAS")
    paths: CliPositionalArg[list[str]] = Field(min_length=1, description="Videos, and folders or zips of frames")
    out: str = Field("scores", description="Folder that the tables and pictures go to")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="What to compute on; auto: a GPU if there is one")


class ImportConfig(Options):
    """Read MediaPipe's blendshape network from its file, to start the landmark net from it."""

    file: CliPositionalArg[str] = Field(description="face_blendshapes.tflite, or the .task bundle that holds it")
    out: str = Field("blendshapes.safetensors", description="File that the weights go to")
