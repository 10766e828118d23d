"""FER+ (Barsoum et al., ICMI 2016): ten annotator votes for each image of FER2013, in ``fer2013new.csv``.

The images are FER2013's CSV or PNG files named as in the column "Image name" (``fer0000017.png`` is line 17 of FER2013,
counted from 0), in the same folder or in a zip in it.
"""

from __future__ import annotations

import csv
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from fer.data.filesystem import FileTree
from fer.data.schema import FaceRow
from fer.data.sources.fer2013 import SPLIT_OF_USAGE, PixelsCsv
from fer.errors import UserError
from fer.labels import get_space

VOTES_CSV = "fer2013new.csv"
EMOTIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
COLUMNS = (*EMOTIONS, "unknown", "NF")
SPACE = get_space("ferplus")


def majority(votes: Sequence[int]) -> str | None:
    """The column with the majority of the votes, as in Microsoft's FERPlus code; None if there is none.

    Single votes are dropped as outliers; a majority is more than half of the remaining votes.
    """
    kept = drop_outliers(votes)
    return COLUMNS[kept.index(max(kept))] if max(kept) > sum(kept) / 2 else None


def distribution(votes: Sequence[int]) -> tuple[float, ...]:
    """Distribution of the votes over the eight emotions of the FER+ label space, without single votes."""
    share = dict.fromkeys(SPACE.labels, 0.0)
    kept = drop_outliers(votes)[: len(EMOTIONS)]
    for name, count in zip(EMOTIONS, kept, strict=True):
        share[SPACE.resolve(name)] = count / sum(kept)
    return tuple(share.values())


def drop_outliers(votes: Sequence[int]) -> list[int]:
    return [count if count > 1 else 0 for count in votes]


class FerPlusSource:
    """FER+: majority labels, and the distribution of the votes as soft labels."""

    format = "ferplus"

    def __init__(self, tree: FileTree) -> None:
        path = tree.find(VOTES_CSV)
        if path is None:
            raise UserError(f"{tree.location} has no {VOTES_CSV}")
        if not {"Usage", "Image name", *COLUMNS} <= set(tree.first_line(path).split(",")):
            raise UserError(f"{tree.display_path(path)} lacks columns of FER+: Usage,Image name,{','.join(COLUMNS)}")
        self.space = SPACE
        self.tree, self.path = tree, path
        self.images = _images(tree)
        if not self.images:
            raise UserError(
                f"{tree.location} has no images: put FER2013's CSV, or the PNG files or a zip of them, into its folder"
            )

    @classmethod
    def matches(cls, tree: FileTree) -> bool:
        return tree.find(VOTES_CSV) is not None

    def rows(self) -> Iterator[FaceRow]:
        with self.tree.open_text(self.path) as file:
            for number, values in enumerate(csv.DictReader(file, restval=""), start=2):
                yield self._row(values, f"{self.tree.display_path(self.path)}:{number}")

    def fingerprint(self) -> str:
        return self.tree.fingerprint([self.path])

    def _row(self, values: Mapping[str, str], line: str) -> FaceRow:
        name = values["Image name"].strip()
        split = SPLIT_OF_USAGE.get(values["Usage"])
        row = FaceRow(f"{self.tree.name}/{name}" if name else line, "", self.images.get(name, _missing), split)
        try:
            votes = [int(values[column]) for column in COLUMNS]
        except ValueError:
            return replace(row, error="votes that are not whole numbers")
        winner = majority(votes)
        if not name:
            return replace(row, excluded="FER+ excludes it: no image name")
        if winner not in EMOTIONS:
            return replace(row, excluded=f"FER+ majority votes for {winner}" if winner else "FER+ no majority")
        if split is None:
            return replace(row, error=f"unknown usage {values['Usage']!r}")
        if name not in self.images:
            return replace(row, error="missing file")
        return replace(row, label=winner, votes=distribution(votes))


def _images(tree: FileTree) -> dict[str, Callable[[], bytes]]:
    """The function that reads each image, by image name."""
    pixels = PixelsCsv.find(tree)
    if pixels:
        table = PixelsCsv(tree, pixels)
        return {f"fer{index:07d}.png": partial(table.png, line) for index, line in enumerate(table.lines())}
    zips = [FileTree(f"{tree.location}/{path}") for path in tree.files if path.lower().endswith(".zip")]
    return {
        posixpath.basename(path): partial(source_tree.read, path)
        for source_tree in (tree, *zips)
        for path in source_tree.files
        if path.endswith(".png")
    }


def _missing() -> bytes:
    raise FileNotFoundError
