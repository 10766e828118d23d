"""SFEW 2.0 (Dhall et al., 2015): frames of films in Train, Val and Test folders with one folder per class.

The film is the row's group: it is the file name up to the first underscore (``Bridesmaids_012015680_00000006.png``).
The published test folder has no labels, so its images are excluded and counted.
"""

from __future__ import annotations

import posixpath
import re

from fer.data.filesystem import FileTree
from fer.data.sources.folder import FolderSource, split_of
from fer.labels import get_space

FRAME = re.compile(r"[^_/]+_\d{9}_\d{8}\.")


class SfewSource(FolderSource):
    """SFEW 2.0 in its published layout."""

    format = "sfew"

    def __init__(self, tree: FileTree) -> None:
        super().__init__(tree)
        self.space = get_space("sfew")

    @classmethod
    def matches(cls, tree: FileTree) -> bool:
        framed = sum(bool(split_of(path) and FRAME.match(posixpath.basename(path))) for path in tree.files)
        return framed > len(tree.files) / 2

    @staticmethod
    def group(name: str) -> str | None:
        return name.split("_")[0] if "_" in name else None
