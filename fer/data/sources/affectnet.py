"""AffectNet (Mollahosseini et al., 2017): expression, valence and arousal of faces from the web, in three forms.

- CSV files (``training.csv``, ``validation.csv``) that name photographs by ``subDirectory_filePath``, with the box of
  the face: the row's image is a square around it, as JPEG, and a row without a box is rejected;
- ``train_set`` and ``val_set`` with ``images/0.jpg`` and ``annotations/0_exp.npy``, ``0_val.npy``, ``0_aro.npy``;
- folders 0 to 7 in train and val (needs ``--format affectnet``, to tell them from other numbered folders).

Expressions 0 to 7 are neutral, happy, sad, surprise, fear, disgust, anger, contempt; rows of 8 to 10 are excluded.
"""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np

from fer.data.filesystem import FileTree
from fer.data.images import decode_untrusted, encode_jpeg, is_image
from fer.data.schema import FaceRow
from fer.data.sources.folder import class_files, split_of
from fer.errors import BadRow, UserError
from fer.faces.box import FaceBox, crop
from fer.labels import get_space

COLUMNS = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
BOX = COLUMNS[1:5]
CROPPED = "faces cut out"
"""In the fingerprint of the CSV files: shards that an earlier version made of whole photographs are made again."""
EXCLUDED = {"8": "none", "9": "uncertain", "10": "no face"}
ANNOTATION_READERS = 8


class AffectNetSource:
    """AffectNet in any of its three forms."""

    format = "affectnet"

    def __init__(self, tree: FileTree) -> None:
        self.space = get_space("affectnet")
        self.tree = tree
        self.tables = _tables(tree)
        if not any(map(is_image, tree.files)):
            raise UserError(f"{tree.location} has no images")

    @classmethod
    def matches(cls, tree: FileTree) -> bool:
        return any(path.endswith("_exp.npy") for path in tree.files) or bool(_tables(tree))

    def rows(self) -> Iterator[FaceRow]:
        if self.tables:
            return chain.from_iterable(map(self._table_rows, self.tables))
        if any(path.endswith("_exp.npy") for path in self.tree.files):
            return self._annotated_rows()
        return self._numbered_rows()

    def fingerprint(self) -> str:
        return self.tree.fingerprint(self.tables) + (CROPPED if self.tables else "")

    def _table_rows(self, table: str) -> Iterator[FaceRow]:
        paths = {_last_two(path): path for path in self.tree.files}
        split = "val" if posixpath.basename(table).lower().startswith("val") else "train"
        with self.tree.open_text(table) as file:
            for fields in csv.reader(file):
                values = dict(zip(COLUMNS, fields, strict=False))
                name = values.get("subDirectory_filePath", "")
                if name not in ("", COLUMNS[0]):  # some releases have a header in one table only
                    path = paths.get(_last_two(name), name)
                    numbers = values.get("expression", ""), values.get("valence", ""), values.get("arousal", "")
                    row = self._row(path, split, *numbers)
                    box = _box(values)
                    if box is None:
                        yield row if row.excluded else replace(row, error="no face box in the table")
                    else:
                        yield replace(row, read=partial(_read_face, self.tree, path, box), cropped=True)

    def _annotated_rows(self) -> Iterator[FaceRow]:
        images = [path for path in self.tree.files if is_image(path)]
        with ThreadPoolExecutor(ANNOTATION_READERS) as pool:
            yield from pool.map(self._annotated_row, images)

    def _annotated_row(self, path: str) -> FaceRow:
        stem = posixpath.splitext(posixpath.basename(path))[0]
        folder = posixpath.join(posixpath.dirname(posixpath.dirname(path)), "annotations")
        try:
            numbers = [_number(self.tree.read(f"{folder}/{stem}_{kind}.npy")) for kind in ("exp", "val", "aro")]
        except (BadRow, ValueError, EOFError):
            read = partial(self.tree.read, path)
            return FaceRow(self.tree.display_path(path), "", read, error="annotation missing or damaged")
        return self._row(path, split_of(path), *numbers)

    def _numbered_rows(self) -> Iterator[FaceRow]:
        for path, split, folder in class_files(self.tree):
            if is_image(path):
                yield self._row(path, split, folder or "no class folder")

    def _row(self, path: str, split: str | None, expression: str, valence: str = "", arousal: str = "") -> FaceRow:
        kind = EXCLUDED.get(expression)
        return FaceRow(
            self.tree.display_path(path),
            expression,
            partial(self.tree.read, path),
            split,
            valence=_in_unit_range(valence),
            arousal=_in_unit_range(arousal),
            excluded=f"AffectNet expression {expression} ({kind})" if kind else None,
        )


def _tables(tree: FileTree) -> list[str]:
    return [path for path in tree.files if path.lower().endswith(".csv") and _is_table(tree, path)]


def _is_table(tree: FileTree, path: str) -> bool:
    first = tree.first_line(path)
    return first.startswith(COLUMNS[0]) or (first.count(",") == len(COLUMNS) - 1 and is_image(first.split(",")[0]))


def _last_two(path: str) -> str:
    return "/".join(path.split("/")[-2:])


def _box(values: Mapping[str, str]) -> FaceBox | None:
    """The box of the face, in pixels of the photograph; None if the table has none."""
    try:
        x, y, width, height = (float(values[name]) for name in BOX)
    except (KeyError, ValueError):
        return None
    return FaceBox(x, y, width, height) if min(width, height) > 0 and np.isfinite([x, y, width, height]).all() else None


def _read_face(tree: FileTree, path: str, box: FaceBox) -> bytes:
    """The face of a photograph. What of the box is beyond the edges is left out. Raises BadRow if that is all of it."""
    image = decode_untrusted(tree.read(path))
    height, width = image.shape[:2]
    left, right = np.clip([box.x, box.x + box.width], 0, width)
    top, bottom = np.clip([box.y, box.y + box.height], 0, height)
    if right - left < 1 or bottom - top < 1:
        raise BadRow("the face box is outside the image")
    return encode_jpeg(crop(image, FaceBox(left, top, right - left, bottom - top), margin=0))


def _number(data: bytes) -> str:
    return str(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False).item())


def _in_unit_range(text: str) -> float | None:
    """Valence or arousal in [-1, 1]; None for -2, which AffectNet writes for a missing value."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if -1 <= value <= 1 else None
