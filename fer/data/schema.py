"""The face row: what every source yields and everything downstream reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from fer.labels import LabelSpace

SPLITS = ("train", "val", "test")

# One Parquet row. `votes` is a distribution over the label space (FER+), null where a source has none.
# `valence` and `arousal` are in [-1, 1] (AffectNet), null where a source has none.
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
    """One labelled face, its image not read yet.

    ``label`` is the source's own spelling or code: `fer prepare` resolves it and sets the row aside if it can't.
    ``split`` is None where the source leaves the split to Ferry. ``read`` returns the encoded image, or raises OSError
    or BadRow. ``error`` says why the row can't be used where the listing shows that already (it counts as bad);
    ``excluded`` names the published rule by which the data set itself sets the row aside (it does not).
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


class Source(Protocol):
    """A data set in its published form."""

    format: str
    space: LabelSpace

    def rows(self) -> Iterator[FaceRow]:
        """Every row, in a fixed order. Raises BadRow nowhere: a row's faults are in it, or come out when it is read."""
        ...

    def fingerprint(self) -> str:
        """Hash of the source's listing: the names and sizes of its files."""
        ...
