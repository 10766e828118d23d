"""Data sets in their published form: one file per format, all yielding the same rows."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Protocol

from fer.data.filesystem import Tree
from fer.data.options import DataOptions
from fer.data.schema import Source
from fer.data.sources.affectnet import AffectNetSource
from fer.data.sources.fer2013 import Fer2013Source
from fer.data.sources.ferplus import FerPlusSource
from fer.data.sources.folder import FolderSource
from fer.data.sources.mix import MixSource
from fer.data.sources.rafdb import RafDbCompoundSource, RafDbSource
from fer.data.sources.sfew import SfewSource
from fer.errors import UserError


class Format(Protocol):
    """What a source's class offers: to tell whether a tree is of its format, and to open it."""

    def matches(self, tree: Tree) -> bool: ...

    def __call__(self, tree: Tree) -> Source: ...


# In the order in which they are tried: the ones with files of their own first, any folder of images last.
FORMATS: Mapping[str, Format] = {
    "mix": MixSource,
    "ferplus": FerPlusSource,
    "rafdb": RafDbSource,
    "rafdb-compound": RafDbCompoundSource,
    "fer2013": Fer2013Source,
    "affectnet": AffectNetSource,
    "sfew": SfewSource,
    "folder": FolderSource,
}


def open_source(options: DataOptions) -> Source:
    """Open a data set. Raises UserError if it does not exist or is not of the format that the options ask for."""
    if options.format == "shards":
        raise UserError(f"{options.data}: shards are prepared already; give the data set they were made from")
    tree = _tree(options.data)
    if options.format != "auto":
        return FORMATS[options.format](tree)
    return next(source for source in FORMATS.values() if source.matches(tree))(tree)


def _tree(location: str) -> Tree:
    """A CSV of pixels is a data set by itself; other CSVs name images in the folder where they lie."""
    tree = Tree(location)
    if location.lower().endswith(".csv") and not Fer2013Source.matches(tree):
        return Tree(tree.location or posixpath.curdir)
    return tree
