"""From a data set to the record in a model's folder, and back: the same splits for evaluation."""

from __future__ import annotations

from typing import TypeVar

from fer.data.manifest import ShardedDataset
from fer.data.options import DataOptions
from fer.data.record import DataRecord
from fer.data.shards import is_sharded

D = TypeVar("D", bound=DataOptions)


def record_data(dataset: ShardedDataset) -> DataRecord:
    """The record of a data set, for the folders of the models that are trained on it."""
    manifest = dataset.manifest
    samples = {name: split.sample for name, split in manifest.splits.items()}
    return DataRecord(
        content_hash=manifest.content_hash,
        splits=manifest.split_options,
        train_rows=samples.get("train", ""),
        val_rows=samples.get("val", ""),
    )


def split_as_trained(options: D, record: DataRecord | None) -> D:
    """``options`` with those of the training where they are unset: the same data is then split in the same way.

    Shards are split already, so nothing changes for them.
    """
    if record is None or record.splits is None or options.format == "shards" or is_sharded(options.data):
        return options
    unset = {name: value for name, value in record.splits if name not in options.model_fields_set}
    return options.model_copy(update=unset)
