"""Images without labels: every image of a folder or zip, for training that learns from its own predictions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from fer.data.filesystem import FileTree
from fer.data.images import is_image
from fer.data.schema import FaceRow
from fer.data.sources.folder import split_of
from fer.errors import UserError
from fer.labels import LabelSpace

LABEL = "unlabelled"


class UnlabelledSource:
    """One label for all. Only ``--format unlabelled`` opens it, since any folder of images would match."""

    format = "unlabelled"
    space = LabelSpace("custom", (LABEL,))

    def __init__(self, tree: FileTree) -> None:
        self.tree = tree
        if not any(map(is_image, tree.files)):
            raise UserError(f"{tree.location} has no images")

    @classmethod
    def matches(cls, tree: FileTree) -> bool:
        return False

    def rows(self) -> Iterator[FaceRow]:
        for path in filter(is_image, self.tree.files):
            yield FaceRow(self.tree.display_path(path), LABEL, partial(self.tree.read, path), split_of(path))

    def fingerprint(self) -> str:
        return self.tree.fingerprint()
