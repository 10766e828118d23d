"""Rejected rows: every row that is not in the shards is listed with its reason."""

from __future__ import annotations

import json
import posixpath
import sqlite3
from collections.abc import Iterable, Iterator

import fsspec

from fer.data.file_list import printable
from fer.data.manifest import REJECTED_ROWS
from fer.data.options import PrepareOptions
from fer.data.schema import FaceRow
from fer.data.vqa.options import QuestionsConfig
from fer.errors import UserError
from fer.storage import get_filesystem


class RejectedRows:
    """Rejected rows with their reasons, in a temporary database, and the number of bad ones among them."""

    def __init__(self, options: PrepareOptions | QuestionsConfig) -> None:
        self._options = options
        self._list = f"{options.out.rstrip('/')}.{REJECTED_ROWS}"
        self._db = sqlite3.connect("")
        self._db.execute("CREATE TABLE entries (path TEXT, reason TEXT)")
        self._bad = 0
        self.candidates = 0
        """Rows that count for the bad fraction: all but the excluded ones."""

    @property
    def counts(self) -> dict[str, int]:
        count = "SELECT reason, COUNT(*) FROM entries GROUP BY reason ORDER BY COUNT(*) DESC, MIN(rowid)"
        return dict(self._db.execute(count))

    def add(self, path: str, reason: str, bad: bool) -> None:
        self._db.execute("INSERT INTO entries VALUES (?, ?)", (printable(path), printable(reason)))
        self._bad += bad

    def filter(self, rows: Iterable[FaceRow]) -> Iterator[FaceRow]:
        """Reject the rows with an ``error`` or a reason to be ``excluded``; yield the others.

        A path that is not UTF-8 is an error too: neither shards nor questions could store it.
        """
        for row in rows:
            if row.excluded and not row.error:
                self.add(row.path, row.excluded, bad=False)
                continue
            self.candidates += 1
            error = row.error or ("file name that is not UTF-8" if printable(row.path) != row.path else None)
            if error:
                self.add(row.path, error, bad=True)
            else:
                yield row

    def check_bad_fraction(self) -> None:
        """Write the list and raise UserError if more than ``max_bad_fraction`` of the rows are bad, or all are.

        Excluded rows do not count, neither as bad rows nor as rows.
        """
        limit = self._options.max_bad_fraction
        if self._bad < self.candidates and self._bad <= limit * self.candidates:
            return
        fs, path = get_filesystem(self._list)
        fs.makedirs(posixpath.dirname(path), exist_ok=True)
        self.write(fs, path)
        raise UserError(
            f"{self._bad} of {self.candidates} rows are bad (--max-bad-fraction is {limit:g}), and "
            f"{sum(self.counts.values()) - self._bad} are excluded; {self._list} lists them with reasons: fix them, or "
            "raise --max-bad-fraction"
        )

    def write(self, fs: fsspec.AbstractFileSystem, path: str) -> None:
        with fs.open(path, "w") as file:
            for name, reason in self._db.execute("SELECT path, reason FROM entries ORDER BY path, reason"):
                file.write(json.dumps({"path": name, "reason": reason}, ensure_ascii=False) + "\n")

    def remove_stale(self) -> None:
        """Remove the list that an earlier failed run wrote beside the output."""
        fs, path = get_filesystem(self._list)
        if fs.exists(path):
            fs.rm(path)
