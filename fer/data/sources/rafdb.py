"""RAF-DB, basic and compound emotions (Li et al., CVPR 2017): a list of ``train_00001.jpg 5`` lines, and the images.

The published layout is ``EmoLabel/list_patition_label.txt`` (sic) and ``Image/aligned/train_00001_aligned.jpg``; images
are found by file name in any folder, aligned ones first. Codes: 1 surprise, 2 fear, 3 disgust, 4 happiness, 5 sadness,
6 anger, 7 neutral; the compound ones are in `fer.labels`. The basic and the compound set have the same layout: use
``--format rafdb-compound`` for the compound one.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from functools import partial

from fer.data.filesystem import FileTree
from fer.data.schema import FaceRow
from fer.errors import UserError
from fer.labels import get_space

LIST = "list_patition_label.txt"


class RafDbSource:
    """RAF-DB's basic emotions."""

    format = "rafdb"
    label_space = "rafdb"

    def __init__(self, tree: FileTree) -> None:
        path = tree.find(LIST)
        if path is None:
            raise UserError(f"{tree.location} has no {LIST} (RAF-DB keeps it in EmoLabel/)")
        self.space = get_space(self.label_space)
        self.tree, self.path = tree, path

    @classmethod
    def matches(cls, tree: FileTree) -> bool:
        return tree.find(LIST) is not None

    def rows(self) -> Iterator[FaceRow]:
        paths = {posixpath.basename(path): path for path in self.tree.files}
        with self.tree.open_text(self.path) as file:
            for line in filter(str.strip, file):
                name, _, code = line.strip().partition(" ")
                stem, suffix = posixpath.splitext(name)
                path = paths.get(f"{stem}_aligned{suffix}") or paths.get(name) or name
                split = name.partition("_")[0]
                known = split in ("train", "test")
                yield FaceRow(
                    self.tree.display_path(path),
                    code,
                    partial(self.tree.read, path),
                    split if known else None,
                    error=None if known else "file name without the prefix train_ or test_",
                )

    def fingerprint(self) -> str:
        return self.tree.fingerprint([self.path])


class RafDbCompoundSource(RafDbSource):
    """RAF-DB's compound emotions."""

    format = "rafdb-compound"
    label_space = "rafdb-compound"

    @classmethod
    def matches(cls, tree: FileTree) -> bool:
        return False
