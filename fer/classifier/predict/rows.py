"""The output of `fer predict`: one row per face, or per file or frame that has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel

UNCERTAIN = "uncertain"
NO_FACE = "no face found"


class PredictionRow(BaseModel):
    """The prediction for one face; or the ``error`` of a file, image or frame without a prediction."""

    path: str
    frame: int | None = None
    """Frame number, from 0, and its time in seconds; None for images."""
    seconds: float | None = None
    face: int | None = None
    """Number of the face in its image; in a video, its track, the same in every frame. None without a detector."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, width and height, in pixels of the image."""
    face_score: float | None = None
    """Confidence of the face detector; None if it has none (haar)."""
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


@dataclass
class PredictionSummary:
    """Counts over all files, for the closing line."""

    files: int = 0
    readable_files: int = 0
    predictions: int = 0
    uncertain: int = 0
    without_face: int = 0
    """Images and frames."""
    errors: int = 0
    first_error: str = ""

    def add(self, rows: Sequence[PredictionRow]) -> None:
        """Count the rows of one file."""
        self.files += 1
        self.readable_files += any(row.is_readable for row in rows)
        self.predictions += sum(row.error is None for row in rows)
        self.uncertain += sum(row.label == UNCERTAIN for row in rows)
        self.without_face += sum(row.error == NO_FACE for row in rows)
        for row in rows:
            if not row.is_readable:
                self.errors += 1
                self.first_error = self.first_error or f"{row.path}: {row.error}"

    def __str__(self) -> str:
        parts = [f"{self.predictions} predictions from {self.readable_files} of {self.files} files"]
        parts += [f"{self.uncertain} uncertain"] if self.uncertain else []
        parts += [f"{self.without_face} images or frames without a face"] if self.without_face else []
        parts += [f"{self.errors} errors, the first: {self.first_error}"] if self.errors else []
        return "; ".join(parts)
