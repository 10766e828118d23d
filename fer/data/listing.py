"""The rows of a data set in the order of its shards, in an SQLite file: memory does not grow with their number.

A row's place is a hash of its path and the seed, and each shard has a range of places. So rows are shuffled without
being held, and a shard's rows do not depend on who writes it, or when.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fer.data.filesystem import FileTree
from fer.data.rejected import RejectedRows
from fer.data.schema import FaceRow, Source
from fer.data.sources.fer2013 import PixelsCsv
from fer.data.splits import COLUMNS, divide_rows
from fer.errors import UserError

PLACES = 2**63
FILE = "rows.sqlite"
CACHE_KB = 2048


class Listing:
    """The usable rows of a source, in a file in ``folder``, on local disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._db = sqlite3.connect(folder / FILE, isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KB}", "temp_store = FILE"):
            self._db.execute(f"PRAGMA {pragma}")
        self.shared: list[Any] = []
        """What many rows read their images from; it is not stored with each of them."""

    def fill(self, rows: Iterable[FaceRow], rejected: RejectedRows, source: Source, seed: int) -> None:
        """Store the rows; those with an ``error``, or a reason to be ``excluded``, are rejected."""
        self._db.execute(f"CREATE TABLE rows ({COLUMNS}, place INTEGER, row BLOB)")
        pickler = _RowPickler((type(source), FileTree, PixelsCsv), self.shared)
        self._db.execute("BEGIN")
        values = (
            (row.path, row.label, row.group, row.split, _place(row.path, seed), pickler.dumps(row))
            for row in rejected.filter(rows)
        )
        self._db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?)", values)
        self._db.execute("COMMIT")

    def divide(self, *, val_split: float, test_split: float, seed: int) -> dict[str, int]:
        """Assign the splits; the number of rows of each."""
        self._db.execute("BEGIN")
        divide_rows(self._db, val_split=val_split, test_split=test_split, seed=seed)
        self._db.execute("COMMIT")
        self._db.execute("CREATE INDEX by_place ON rows (split, place, path)")
        return dict(self._db.execute("SELECT split, COUNT(*) FROM rows GROUP BY split"))

    def sample(self, count: int) -> list[FaceRow]:
        """A few rows of the data set, always the same ones."""
        return unpickle_rows(self._select("SELECT row FROM rows ORDER BY place, path LIMIT ?", (count,)), self.shared)

    def rows(self, split: str, index: int, count: int) -> list[FaceRow]:
        """The rows of shard ``index`` of the ``count`` shards of a split, in order."""
        return unpickle_rows(self.pickled_rows(split, index, count), self.shared)

    def pickled_rows(self, split: str, index: int, count: int) -> list[bytes]:
        """The same for `unpickle_rows`, which needs ``shared``."""
        first, end = index * PLACES // count, (index + 1) * PLACES // count
        query = "SELECT row FROM rows WHERE split = ? AND place BETWEEN ? AND ? ORDER BY place, path"
        return self._select(query, (split, first, end - 1))

    def _select(self, query: str, values: tuple[object, ...]) -> list[bytes]:
        return [row for (row,) in self._db.execute(query, values)]


def unpickle_rows(rows: Iterable[bytes], shared: list[Any]) -> list[FaceRow]:
    return [_RowUnpickler(row, shared).load() for row in rows]


def _place(path: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{path}".encode(errors="surrogateescape")).digest()[:8]) * PLACES >> 64


class _RowPickler:
    """Pickles rows one by one, with references to objects of the ``types``, which it collects in ``shared``."""

    def __init__(self, types: tuple[type, ...], shared: list[Any]) -> None:
        self.types, self.shared = types, shared
        self.numbers: dict[int, int] = {}

    def dumps(self, row: FaceRow) -> bytes:
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer, protocol=5)
        pickler.persistent_id = self.number  # type: ignore[method-assign]
        try:
            pickler.dump(row)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"{row.path}: its `read` can't be sent to other processes ({error}); use a method of the source, or "
                "functools.partial of one"
            ) from None
        return buffer.getvalue()

    def number(self, value: Any) -> int | None:
        if not isinstance(value, self.types):
            return None
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.shared)
            self.shared.append(value)
        return self.numbers[id(value)]


class _RowUnpickler(pickle.Unpickler):
    """Reads what `_RowPickler` wrote: rows come from this job's own temporary file, directly or through Ray."""

    def __init__(self, data: bytes, shared: list[Any]) -> None:
        super().__init__(io.BytesIO(data))
        self.shared = shared

    def persistent_load(self, number: int) -> Any:
        return self.shared[number]
