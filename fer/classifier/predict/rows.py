"""The output of `fer predict`: one row per face, or per file or frame that has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from pandas import DataFrame

UNCERTAIN = "uncertain"
NO_FACE = "no face found"
BOX_COLUMNS = ("left", "top", "width", "height")


class PredictionRow(BaseModel):
    """The prediction for one face; or the ``error`` of a file, image or frame without a prediction."""

    path: str
    frame: int | None = None
    """Frame number, from 0, and its time in seconds; None for images."""
    seconds: float | None = None
    face: int | None = None
    """Number of the face in its image; in a video, its track, the same in every frame."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, width and height, in pixels of the image."""
    face_score: float | None = None
    """Confidence of the face detector; None if it has none (haar)."""
    whole_image: bool = False
    """Whether the whole image was taken as the face: without a detector, or for a face crop in which none was found."""
    label: str | None = None
    """The most probable expression, or `uncertain`; None if the model has no expression head."""
    confidence: float | None = None
    """Probability of the most probable expression."""
    compound: str | None = None
    """RAF-DB's compound label of the two most probable expressions; None if they form none, or without --compound."""
    valence: float | None = None
    """Valence and arousal, in [-1, 1]; None if the model has no valence-arousal head."""
    arousal: float | None = None
    scores: dict[str, float] | None = None
    """Probability of each label."""
    error: str | None = None

    @property
    def is_readable(self) -> bool:
        """Whether the file, image or frame could be read."""
        return self.error is None or self.error == NO_FACE

    @property
    def best_label(self) -> str | None:
        """The most probable expression, also of an uncertain face; None without scores."""
        return max(self.scores, key=self.scores.__getitem__) if self.scores else None


class PredictionList(list[PredictionRow]):
    """The rows of one or more images, in their order; `to_frame` makes a pandas table of them."""

    def __init__(self, rows: Iterable[PredictionRow] = (), labels: Sequence[str] = ()) -> None:
        super().__init__(rows)
        self.labels = tuple(labels)
        """The model's."""

    def to_frame(self) -> DataFrame:
        """A pandas DataFrame: one row per face, with the columns of `fer predict --format csv`."""
        import pandas as pd

        return pd.DataFrame([table_row(row) for row in self], columns=table_columns(self.labels))


def table_columns(labels: Sequence[str]) -> list[str]:
    """The fields of a row as columns, with four for the box, and one `p_LABEL` for the probability of each label."""
    columns = [name for name in PredictionRow.model_fields if name not in ("box", "scores")]
    box_column = columns.index("face") + 1
    columns[box_column:box_column] = BOX_COLUMNS
    columns[-1:-1] = [f"p_{label}" for label in labels]
    return columns


def table_row(row: PredictionRow) -> dict[str, Any]:
    """The values of a row by column; a box or scores that it does not have are left out."""
    values = row.model_dump(exclude={"box", "scores"})
    values |= zip(BOX_COLUMNS, row.box or (), strict=False)
    values |= {f"p_{label}": p for label, p in (row.scores or {}).items()}
    return values


@dataclass
class PredictionSummary:
    """Counts over all files, for the closing line."""

    files: int = 0
    readable_files: int = 0
    predictions: int = 0
    frames: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    """Faces by label; `uncertain` is one of them."""
    images_without_face: int = 0
    frames_without_face: int = 0
    errors: int = 0
    first_error: str = ""

    def add(self, rows: Sequence[PredictionRow]) -> None:
        """Count the rows of one file."""
        self.files += 1
        self.readable_files += any(row.is_readable for row in rows)
        self.predictions += sum(row.error is None for row in rows)
        self.frames += len({row.frame for row in rows if row.frame is not None})
        self.labels.update(row.label for row in rows if row.label is not None)
        self.images_without_face += sum(row.error == NO_FACE and row.frame is None for row in rows)
        self.frames_without_face += sum(row.error == NO_FACE and row.frame is not None for row in rows)
        for row in rows:
            if not row.is_readable:
                self.errors += 1
                self.first_error = self.first_error or f"{row.path}: {row.error}"

    def __str__(self) -> str:
        files = f"{self.readable_files:,} of {self.files:,}" if self.readable_files < self.files else f"{self.files:,}"
        faces = f"{_count(self.predictions, 'face')} in {files} {'file' if self.files == 1 else 'files'}"
        faces += f" ({_count(self.frames, 'frame')} of video)" if self.frames else ""
        named = [(label, count) for label, count in self.labels.most_common() if label != UNCERTAIN]
        shares = ", ".join(f"{label} {percent(count / self.predictions)}" for label, count in named)
        parts = [f"{faces}: {shares}" if shares else faces]
        parts += [f"{self.labels[UNCERTAIN]:,} uncertain"] if self.labels[UNCERTAIN] else []
        for count, what in ((self.images_without_face, "image"), (self.frames_without_face, "frame")):
            parts += [f"{_count(count, what)} without a face"] if count else []
        parts += [f"{_count(self.errors, 'error')}, the first: {self.first_error}"] if self.errors else []
        return "; ".join(parts)


def percent(share: float) -> str:
    """``93%``; what rounds to nothing, but is not, is ``<1%``."""
    text = f"{share:.0%}"
    return "<1%" if text == "0%" and share > 0 else text


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
