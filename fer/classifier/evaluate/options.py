"""Options of `fer evaluate`: which model is judged on what, and where the results go."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from fer.data.options import DataOptions
from fer.tracking import TrackingOptions


class EvaluateConfig(DataOptions, TrackingOptions):
    """Evaluate a model on a labelled data set: metrics with 95% intervals, plots, and one HTML report."""

    model: CliPositionalArg[str] = Field(
        description="Model: a folder or checkpoint, a run, runs:/ID/model or models:/NAME@ALIAS"
    )
    split: str | None = Field(
        None, description="Part of the data that is judged; unset: test if there is one, else val"
    )
    filter: str | None = Field(
        None, description="Evaluate only rows whose path matches this glob pattern, such as '*PrivateTest*'"
    )
    tta: bool = Field(False, description="Average each answer with that of the mirror image")
    batch_size: int = Field(64, ge=1, description="Images that the network sees at once")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="What to compute on; auto: a GPU if there is one")
    seed: int = Field(0, ge=0, description="Seed of the bootstrap")
    out: str | None = Field(
        None,
        description="Folder for the results; unset: evaluation-DATA-SPLIT beside the model "
        "(in --out-dir for a registered model)",
    )
    thumbnails: bool = Field(
        True, description="Show the worst mistakes as pictures in the report; leave them out before you share it"
    )
