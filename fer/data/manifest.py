"""The manifest of a sharded data set: shards, labels, source and rejected rows."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fer.data.record import SplitRecord
from fer.errors import UserError
from fer.faces.options import Preprocessing
from fer.labels import LabelSpace
from fer.storage import absolute, get_filesystem

MANIFEST = "manifest.json"
REJECTED_ROWS = "rejected.jsonl"


class Shard(BaseModel):
    """One Parquet file: its path relative to the data set's folder, and the number of rows of each row group."""

    path: str
    row_groups: list[int]


class Split(BaseModel):
    """Shards of a split, and its number of rows per label."""

    shards: list[Shard]
    counts: dict[str, int]
    with_votes: int = 0
    """Number of rows with annotator votes."""
    with_affect: int = 0
    """Number of rows with valence and arousal."""
    sample: str = ""
    """`RowSample` of its rows; empty for questions, and for shards of an earlier version."""

    @property
    def rows(self) -> int:
        return sum(self.counts.values())


class Manifest(BaseModel):
    """Content of `manifest.json`."""

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    kind: Literal["faces", "questions"] = "faces"
    source: str
    format: str
    label_space: str
    labels: list[str]
    splits: dict[str, Split]
    rejected: dict[str, int] = {}
    """Number of rejected rows per reason; `rejected.jsonl` lists the rows."""
    preprocessing: Preprocessing | None = None
    """How the faces were found in photographs and cut out; None if the images are those of the data set."""
    content_hash: str
    """Sum of the SHA-256 of split, path, label and image of every row, so that their order does not matter."""
    input_hash: str
    """Hash of the options and of the source's files: `fer prepare` skips inputs that it has prepared before."""
    split_options: SplitRecord | None = None
    """What the rows were split with; None for questions, and for shards of an earlier version."""

    @property
    def space(self) -> LabelSpace:
        return LabelSpace(self.label_space, tuple(self.labels))

    @property
    def counts(self) -> Counter[str]:
        """Number of rows per label over all splits."""
        return sum((Counter(split.counts) for split in self.splits.values()), Counter())


class ShardedDataset:
    """A folder of shards with a manifest, at a local path or any fsspec URI."""

    def __init__(self, root: str) -> None:
        self.root = absolute(root)
        fs, path = get_filesystem(self.root)
        try:
            self.manifest = Manifest.model_validate_json(fs.cat_file(f"{path}/{MANIFEST}"))
        except FileNotFoundError:
            raise UserError(
                f"{root} has no {MANIFEST}: create shards with `fer prepare --data SOURCE --out {root}`"
            ) from None
        except ValidationError as error:
            raise UserError(
                f"{root}/{MANIFEST} is not a manifest of this version ({error.errors()[0]['msg']}): "
                "prepare the data again with `fer prepare --overwrite`"
            ) from None

    def split(self, name: str) -> Split:
        """A split by name. Raises UserError if there is none."""
        if name not in self.manifest.splits:
            raise UserError(f"{self.root} has no split {name!r}; it has: {', '.join(self.manifest.splits)}")
        return self.manifest.splits[name]

    def path(self, shard: Shard) -> str:
        return f"{self.root}/{shard.path}"
