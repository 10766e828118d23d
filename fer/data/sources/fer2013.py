"""FER2013 (Goodfellow et al., 2013): a CSV ``emotion,pixels,Usage`` of 35,887 grey faces of 48x48 pixels.

Training, PublicTest and PrivateTest become train, val and test. Memory holds only the offset of each line.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from fer.data.filesystem import FileTree
from fer.data.images import encode_png
from fer.data.schema import FaceRow
from fer.errors import BadRow, UserError
from fer.labels import get_space

SIDE = 48
SPLIT_OF_USAGE = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the CSV; its pixels stay on disk."""

    emotion: str
    usage: str
    offset: int
    length: int


class PixelsCsv:
    """Lines of FER2013's CSV, and random access to their images. ``png`` is thread-safe."""

    def __init__(self, tree: FileTree, path: str) -> None:
        self.tree, self.path = tree, path
        self._file = tree.spool(path)
        self._columns = _columns(tree.first_line(path))

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process, the file is opened once."""
        return _reopen, (self.tree, self.path)

    @staticmethod
    def find(tree: FileTree) -> str | None:
        """Path of the CSV with FER2013's columns in a tree; None if there is none."""
        tables = (path for path in tree.files if path.lower().endswith(".csv"))
        return next((path for path in tables if {"emotion", "pixels"} <= set(_columns(tree.first_line(path)))), None)

    def lines(self) -> Iterator[Line]:
        self._file.seek(0)
        offset = len(self._file.readline())
        for line in self._file:
            if line.strip():
                values = self._values(line)
                yield Line(values.get("emotion", ""), values.get("usage", "Training"), offset, len(line))
            offset += len(line)

    def digest(self) -> str:
        """SHA-256 of the CSV."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()  # type: ignore[arg-type]  # it has `readinto`

    def png(self, line: Line) -> bytes:
        """The image of a line as a grey 48x48 PNG. Raises BadRow unless it has 2,304 pixels from 0 to 255."""
        text = self._values(os.pread(self._file.fileno(), line.length, line.offset)).get("pixels", "")
        try:
            pixels = np.array(text.split(), np.int64)
        except ValueError:
            raise BadRow("pixels that are not whole numbers") from None
        if pixels.size != SIDE * SIDE or pixels.min() < 0 or pixels.max() > 255:
            raise BadRow(f"not {SIDE * SIDE} pixels of 0 to 255")
        return encode_png(pixels.astype(np.uint8).reshape(SIDE, SIDE))

    def _values(self, line: bytes) -> dict[str, str]:
        try:
            fields = next(csv.reader([line.decode("utf-8", errors="replace")]))
        except csv.Error:
            fields = []
        return {column: field.strip() for column, field in zip(self._columns, fields, strict=False)}


@lru_cache(maxsize=8)
def _reopen(tree: FileTree, path: str) -> PixelsCsv:
    return PixelsCsv(tree, path)


def _columns(header: str) -> list[str]:
    return [column.strip().strip('"').lower() for column in header.split(",")]


class Fer2013Source:
    """FER2013's CSV, alone or in a folder or zip."""

    format = "fer2013"

    def __init__(self, tree: FileTree) -> None:
        path = PixelsCsv.find(tree)
        if path is None:
            raise UserError(f"{tree.location} has no CSV with the columns emotion,pixels,Usage")
        self.space = get_space("fer2013")
        self.tree, self.path = tree, path
        self.csv = PixelsCsv(tree, path)

    @classmethod
    def matches(cls, tree: FileTree) -> bool:
        return PixelsCsv.find(tree) is not None

    def rows(self) -> Iterator[FaceRow]:
        for index, line in enumerate(self.csv.lines()):
            split = SPLIT_OF_USAGE.get(line.usage)
            error = None if split else f"unknown usage {line.usage!r} (known: {', '.join(SPLIT_OF_USAGE)})"
            path = f"{self.tree.display_path(self.path)}/fer{index:07d}.png"
            yield FaceRow(path, line.emotion, partial(self.csv.png, line), split, error=error)

    def fingerprint(self) -> str:
        return self.tree.fingerprint() + self.csv.digest()
