"""Which evaluated rows the model was trained on, and which of them chose its weights."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from fer.data.manifest import ShardedDataset
from fer.data.record import DataRecord
from fer.data.row_sample import RowSample, row_hash
from fer.errors import UserError


class Overlap(BaseModel):
    """Numbers of evaluated rows; estimates if the training data is large and differently split."""

    trained: int = 0
    """Rows that the model was trained on."""
    chose_weights: int = 0
    """Rows of the training's validation split, on which the weights with the best score were chosen."""
    exact: bool = True


class OverlapCounter:
    """Counts the overlap of one evaluation with the training data, row by row where the data sets differ.

    Raises UserError at the first row that the model was trained on, unless ``allowed``.
    """

    def __init__(self, record: DataRecord | None, dataset: ShardedDataset, split: str, allowed: bool) -> None:
        self.split, self.allowed = split, allowed
        self.is_known = record is not None
        splits = dataset.manifest.splits
        self.same_data = record is not None and record.content_hash == dataset.manifest.content_hash
        self.is_trained = self.same_data and split == "train"
        # Without a validation split, the test split is used for it, and has its shards.
        self.is_validation = self.same_data and "val" in splits and splits[split].shards == splits["val"].shards
        self.train, self.val = RowSample(), RowSample()
        if record is not None and not self.same_data:
            self.train, self.val = RowSample.decode(record.train_rows), RowSample.decode(record.val_rows)
            self.is_known = bool(record.train_rows)
        self.rows = self.in_train = self.in_val = 0
        if self.is_trained and not allowed:
            self._refuse(f"the split {split!r}")

    def add(self, paths: Iterable[str], images: Iterable[bytes]) -> None:
        """Count a batch of evaluated rows; images are encoded."""
        for path, image in zip(paths, images, strict=True):
            self.rows += 1
            if self.is_known and not self.same_data:
                value = row_hash(path, image)
                self.in_val += value in self.val
                if value in self.train:
                    self.in_train += 1
                    if not self.allowed:
                        self._refuse(f"rows of the split {self.split!r}, such as {path}")

    def result(self) -> Overlap | None:
        """None if the training data is not known."""
        if not self.is_known:
            return None
        if self.same_data:
            return Overlap(trained=self.rows * self.is_trained, chose_weights=self.rows * self.is_validation)
        counts = [
            round(found / sample.rate) for found, sample in ((self.in_train, self.train), (self.in_val, self.val))
        ]
        return Overlap(trained=counts[0], chose_weights=counts[1], exact=self.train.rate == self.val.rate == 1)

    def _refuse(self, what: str) -> None:
        raise UserError(
            f"the model was trained on {what}: choose another --split, leave out --val-split, --test-split, "
            "--split-seed and --label-space to split as for its training, or allow it with --allow-training-rows"
        )
