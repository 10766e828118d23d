"""A sample of a split's rows by hash, by which a model recognises rows that it was trained on, in any data set."""

from __future__ import annotations

import base64
import hashlib
import heapq
import posixpath
import struct
from collections.abc import Iterable

SAMPLE_ROWS = 4096


def row_hash(path: str, image: bytes) -> int:
    """64 bits of a row's file name and encoded image: the same in another folder, split or mix."""
    return int.from_bytes(hashlib.sha256(posixpath.basename(path).encode() + b"\0" + image).digest()[:8])


class RowSample:
    """The `SAMPLE_ROWS` smallest hashes of the rows: every row of a small split, a uniform sample of a large one.

    A set of rows that shares a thousandth of a large split's rows is found with a probability of 98%.
    """

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self._hashes: set[int] = set()
        self._largest_first: list[int] = []
        for value in hashes:
            self.add(value)

    def add(self, value: int) -> None:
        """Add the `row_hash` of a row."""
        if value in self._hashes or (self._is_full and value > -self._largest_first[0]):
            return
        if self._is_full:
            self._hashes.remove(-heapq.heapreplace(self._largest_first, -value))
        else:
            heapq.heappush(self._largest_first, -value)
        self._hashes.add(value)

    def add_all(self, other: RowSample) -> None:
        """Add the rows of another sample: this one is then that of the rows of both."""
        for value in other._hashes:
            self.add(value)

    def __contains__(self, value: int) -> bool:
        return value in self._hashes

    @property
    def rate(self) -> float:
        """The fraction of the split's rows that are in the sample."""
        return (1 - self._largest_first[0]) / 2**64 if self._is_full else 1.0

    @property
    def _is_full(self) -> bool:
        return len(self._hashes) == SAMPLE_ROWS

    def encode(self) -> str:
        """As text, for JSON; 44 kB at most."""
        return base64.b64encode(struct.pack(f">{len(self._hashes)}Q", *sorted(self._hashes))).decode()

    @classmethod
    def decode(cls, *texts: str) -> RowSample:
        """The sample of all rows whose samples, in one part or several, were encoded."""
        return cls(value for text in texts for (value,) in struct.iter_unpack(">Q", base64.b64decode(text)))
