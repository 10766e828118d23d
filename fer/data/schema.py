"""The face row: what every source yields and everything downstream reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from fer.labels import LabelSpace

SPLITS = ("train", "val", "test")

# Columns of a Parquet row. `votes` is a distribution over the label space (FER+); `valence` and `arousal` are in
# [-1, 1] (AffectNet). They are null for data sets without them.
FACE_SCHEMA = pa.schema(
    [
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("path", pa.string(), nullable=False),
        pa.field("votes", pa.list_(pa.float32())),
        pa.field("valence", pa.float32()),
        pa.field("arousal", pa.float32()),
    ]
)


@dataclass(frozen=True, slots=True)
class FaceRow:
    """One labelled face, with an image that is read later.

    ``label`` is the source's own spelling or code; `fer prepare` resolves it, and rejects the row if it is unknown.
    ``split`` is None if the data set does not define one. ``read`` returns the encoded image, or raises OSError or
    BadRow; it is sent to other processes, so it is a function, a method, or a `functools.partial` of one. ``error`` is
    the reason why the row is bad, if it is known before the image is read; ``excluded`` is the data set's own rule that
    excludes the row, which does not make it bad. ``cropped``: the image is a part of the file at ``path``.
    """

    path: str
    label: str | int
    read: Callable[[], bytes]
    split: str | None = None
    group: str | None = None
    votes: tuple[float, ...] | None = None
    valence: float | None = None
    arousal: float | None = None
    error: str | None = None
    excluded: str | None = None
    cropped: bool = False


class Source(Protocol):
    """A data set in its published form. It is sent to the processes that read its images, once to each."""

    format: str
    space: LabelSpace

    def rows(self) -> Iterator[FaceRow]:
        """Every row, in a fixed order. Never raises BadRow: errors are in the row, or raised by its ``read``."""
        ...

    def fingerprint(self) -> str:
        """Hash of the names and sizes of its files, and of the content of its tables of labels."""
        ...
