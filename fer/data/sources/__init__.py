"""Data sets in their published formats: one module per format, all with the same rows."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Protocol

from fer.data.filesystem import FileTree
from fer.data.options import SOURCES, DataOptions
from fer.data.schema import Source
from fer.data.sources.fer2013 import Fer2013Source
from fer.errors import UserError


class SourceClass(Protocol):
    """What the class of a source offers; the registry is `fer.data.options.SOURCES`."""

    def matches(self, tree: FileTree) -> bool:
        """Whether the files are of this format: a class method."""
        ...

    def __call__(self, tree: FileTree) -> Source:
        """Open the data set. Raises UserError if it is not of this format."""
        ...


def open_source(options: DataOptions) -> Source:
    """Open a data set. Raises UserError if it does not exist or is not of the format that the options name."""
    if options.format == "shards":
        raise UserError(f"{options.data}: these are shards already; give the original data set")
    tree = _tree(options.data)
    if options.format != "auto":
        found: SourceClass = SOURCES.load(options.format)
        return found(tree)
    return next(source for source in _all_sources() if source.matches(tree))(tree)


def _all_sources() -> Iterator[SourceClass]:
    """Every known source, `folder` last: it takes any folder of images."""
    for name in sorted(SOURCES.references(), key=lambda name: name == "folder"):
        yield SOURCES.load(name)


def _tree(location: str) -> FileTree:
    """A CSV of pixels is a data set by itself; other CSVs name images in their folder."""
    tree = FileTree(location)
    if location.lower().endswith(".csv") and not Fer2013Source.matches(tree):
        return FileTree(tree.location or posixpath.curdir)
    return tree
