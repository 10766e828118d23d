"""An image folder: one folder per class, optionally inside train, val and test folders.

File names of CK+ (Lucey et al., 2010: ``S005_001_00000011.png``) and JAFFE (Lyons et al., 1998: ``KA.AN1.39.tiff``)
contain the subject, which becomes the row's group. JAFFE's file names contain the label too, so its flat folder works.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from posixpath import basename

from fer.data.file_list import printable
from fer.data.filesystem import FileTree
from fer.data.images import is_image
from fer.data.schema import FaceRow
from fer.errors import UserError
from fer.labels import emotion, infer_space

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "train_set": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "val_set": "val",
    "test": "test",
    "testing": "test",
    "test_set": "test",
}
CK_PLUS = re.compile(r"(?P<subject>S\d{3})_\d{3}_\d{8}")
JAFFE = re.compile(r"(?P<subject>[A-Z]{2})\.(?P<label>AN|DI|FE|HA|NE|SA|SU)\d*\.")


def class_files(tree: FileTree) -> Iterator[tuple[str, str | None, str | None]]:
    """Path, split and class folder of each file; the split or class is None if the file is in no such folder."""
    split_layout = any(split_of(path) for path in tree.files)
    for path in tree.files:
        folders = path.split("/")[:-1]
        split = split_of(path)
        if split:
            folders = folders[1:]
        in_class = bool(folders) and (split is not None or not split_layout)
        yield path, split, folders[0] if in_class else None


def split_of(path: str) -> str | None:
    """The split named by a path's first folder; None if it names none."""
    first, slash, _ = path.partition("/")
    return SPLIT_FOLDERS.get(first.lower()) if slash else None


class FolderSource:
    """One folder of images per class. The label space is a known one with these classes, or a custom one."""

    format = "folder"

    def __init__(self, tree: FileTree) -> None:
        self.tree = tree
        names = {label for path, _, label in self._files() if label and is_image(path) and label == printable(label)}
        if not names:
            raise UserError(f"{tree.location} has no images in class folders such as train/happy/1.jpg or happy/1.jpg")
        self.space = infer_space(names)

    @classmethod
    def matches(cls, tree: FileTree) -> bool:
        return True

    def rows(self) -> Iterator[FaceRow]:
        for path, split, label in self._files():
            name, read, group = self.tree.display_path(path), partial(self.tree.read, path), self.group(basename(path))
            if label and is_image(path):
                yield FaceRow(name, label, read, split, group)
            elif label:
                yield FaceRow(name, label, read, split, excluded="no suffix of an image file")
            elif is_image(path):
                yield FaceRow(name, "", read, split, excluded="not in a class folder")

    def fingerprint(self) -> str:
        return self.tree.fingerprint()

    @staticmethod
    def group(name: str) -> str | None:
        """The subject in a file name of CK+ or JAFFE."""
        match = CK_PLUS.match(name) or JAFFE.match(name)
        return match["subject"] if match else None

    def _files(self) -> Iterator[tuple[str, str | None, str | None]]:
        for path, split, label in class_files(self.tree):
            jaffe = JAFFE.match(basename(path))
            yield path, split, label or (emotion(jaffe["label"]) if jaffe else None)
