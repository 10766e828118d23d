"""Records of finished shards, and their sum: what the manifest says about a data set."""

from __future__ import annotations

from collections import Counter

from pydantic import BaseModel

from fer.data.manifest import Split
from fer.data.rejected import RejectedRows
from fer.data.row_sample import RowSample
from fer.data.schema import SPLITS


class ShardRecord(BaseModel):
    """What a finished shard contains."""

    split: str
    index: int
    written: Split
    """Of this shard alone; without a shard if none of its rows is usable."""
    rejected: list[tuple[str, str, bool]] = []
    """Path and reason of each rejected row, and whether it is bad."""
    content: str
    """Sum of the rows' hashes, as hexadecimal digits."""

    @property
    def rows(self) -> int:
        """Of the listing: written or rejected."""
        return self.written.rows + len(self.rejected)


class ShardTotals:
    """The sum of the records. In memory, a shard is its path and the sizes of its row groups."""

    def __init__(self, rejected: RejectedRows) -> None:
        self._rejected = rejected
        self._parts: dict[tuple[str, int], Split] = {}
        self._samples: dict[str, RowSample] = {name: RowSample() for name in SPLITS}
        self._content = 0

    def add(self, record: ShardRecord) -> None:
        """Add a shard, and its rejected rows to the others."""
        self._parts[record.split, record.index] = record.written.model_copy(update={"sample": ""})
        self._samples[record.split].add_all(RowSample.decode(record.written.sample))
        self._content += int(record.content, 16)
        for path, reason, bad in record.rejected:
            self._rejected.add(path, reason, bad)

    @property
    def content_hash(self) -> str:
        return f"{self._content % 2**256:064x}"

    def splits(self) -> dict[str, Split]:
        """Every split that has rows, with its shards in order."""
        splits = {}
        for name in SPLITS:
            parts = [self._parts[key] for key in sorted(self._parts) if key[0] == name]
            counts: Counter[str] = sum((Counter(part.counts) for part in parts), Counter())
            if counts:
                splits[name] = Split(
                    shards=[shard for part in parts for shard in part.shards],
                    counts=dict(sorted(counts.items())),
                    with_votes=sum(part.with_votes for part in parts),
                    with_affect=sum(part.with_affect for part in parts),
                    sample=self._samples[name].encode(),
                )
        return splits
