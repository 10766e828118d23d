"""The manifest of a sharded data set: what it holds, where its rows came from, and which rows were set aside."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import fsspec
from pydantic import BaseModel, ConfigDict, ValidationError

from fer.errors import UserError
from fer.labels import LabelSpace

MANIFEST = "manifest.json"
REJECTED_ROWS = "rejected.jsonl"


class Shard(BaseModel):
    """One Parquet file, its path relative to the data set's folder, and the rows of each of its row groups."""

    path: str
    row_groups: list[int]


class Split(BaseModel):
    """One split's files and its rows per label."""

    shards: list[Shard]
    counts: dict[str, int]
    with_votes: int = 0
    """Rows with the annotators' votes."""
    with_affect: int = 0
    """Rows with valence and arousal."""

    @property
    def rows(self) -> int:
        return sum(self.counts.values())


class Manifest(BaseModel):
    """`manifest.json` of a sharded data set."""

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    kind: Literal["faces", "questions"] = "faces"
    source: str
    format: str
    label_space: str
    labels: list[str]
    splits: dict[str, Split]
    rejected: dict[str, int] = {}
    """Rows that are not in the shards, by reason; the list is `rejected.jsonl`."""
    content_hash: str
    """SHA-256 over every kept row's split, path, label and image, in order of path."""
    input_hash: str
    """Hash of the source's listing and the options: running `fer prepare` again with the same does nothing."""

    @property
    def space(self) -> LabelSpace:
        return LabelSpace(self.label_space, tuple(self.labels))

    @property
    def counts(self) -> Counter[str]:
        """Rows per label over all splits."""
        return sum((Counter(split.counts) for split in self.splits.values()), Counter())


class ShardedDataset:
    """A folder of shards and its manifest, on local disk or any fsspec URI."""

    def __init__(self, root: str) -> None:
        # Training workers, which have a working directory of their own, open the same folder.
        self.root = root.rstrip("/") if "://" in root else str(Path(root).absolute())
        try:
            with fsspec.open(f"{self.root}/{MANIFEST}", "r") as file:
                self.manifest = Manifest.model_validate_json(file.read())
        except FileNotFoundError:
            raise UserError(
                f"{root} has no {MANIFEST}: make shards with `fer prepare --data SOURCE --out {root}`"
            ) from None
        except ValidationError as error:
            raise UserError(
                f"{root}/{MANIFEST} is not a manifest that this version reads: {error.errors()[0]['msg']}"
            ) from None

    def split(self, name: str) -> Split:
        """A split by name. Raises UserError that lists the splits there are."""
        if name not in self.manifest.splits:
            raise UserError(f"{self.root} has no split {name!r}; it has: {', '.join(self.manifest.splits)}")
        return self.manifest.splits[name]

    def path(self, shard: Shard) -> str:
        return f"{self.root}/{shard.path}"
