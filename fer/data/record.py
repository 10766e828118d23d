"""What manifests and model folders say about data: how they were split, and which rows a model was trained on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class SplitRecord(BaseModel):
    """The options that a data set was split with; a label space excludes rows, so it changes the splits too."""

    model_config = ConfigDict(extra="forbid")

    label_space: str | None
    val_split: float
    test_split: float
    split_seed: int


class DataRecord(BaseModel):
    """The training data of a model: enough to split them again in the same way, and to recognise their rows."""

    model_config = ConfigDict(extra="forbid")

    content_hash: str
    """That of the manifest."""
    splits: SplitRecord | None
    """None for shards of an earlier version, which do not say it."""
    train_rows: str
    """`RowSample` of the training rows, and of the validation rows, which choose the weights; empty if not known."""
    val_rows: str
