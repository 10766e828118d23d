"""Options of `fer evaluate`: model, data and output."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg

from fer.data.options import DataOptions
from fer.tracking import TrackingOptions


class EvaluateConfig(DataOptions, TrackingOptions):
    """Evaluate a model on a labelled data set: metrics with 95% intervals, plots and an HTML report.

    Split options and a label space that are not given are those of the model's training.
    """

    model: CliPositionalArg[str] = Field(
        description="Model: a folder or checkpoint, a run, runs:/ID/model or models:/NAME@ALIAS"
    )
    split: str | None = Field(None, description="Split to evaluate on; unset: test if there is one, else val")
    filter: str | None = Field(
        None, description="Evaluate only rows whose path matches this glob pattern, for example '*PrivateTest*'"
    )
    allow_training_rows: bool = Field(
        False, description="Evaluate rows that the model was trained on as well; the report then says so first"
    )
    groups: list[str] = Field(
        [], description="Metrics by group as well: columns of --metadata, such as age,gender,skin"
    )
    metadata: str | None = Field(
        None, description="CSV file with a column path, or the end of it, and the columns of --groups"
    )
    min_confidence: float = Field(
        0.0, ge=0, le=1, description="List the rows with a lower confidence in review.csv; 0: no list"
    )
    tta: bool = Field(
        False, description="Test-time augmentation: average each prediction with that of the mirror image"
    )
    batch_size: int = Field(64, ge=1, description="Images per batch")
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Compute device, of the cluster in RAY_ADDRESS if that is set; auto: a GPU if available"
    )
    seed: int = Field(0, ge=0, description="Seed of the bootstrap")
    out: str | None = Field(
        None,
        description="Output folder; unset: evaluation-DATA-SPLIT beside the model "
        "(in --storage for a registered model)",
    )
    thumbnails: bool = Field(
        True, description="Show images of the worst mistakes in the report; turn this off before you share it"
    )

    @model_validator(mode="after")
    def _groups_have_metadata(self) -> EvaluateConfig:
        if bool(self.groups) != bool(self.metadata):
            raise ValueError("--groups names columns of the file --metadata: give both or neither")
        return self
