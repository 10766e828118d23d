"""The worst mistakes of an evaluation, with their images."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from fer.classifier.evaluate.rows import affect_values
from fer.classifier.predictor import Predictions

MAX_MISTAKES = 24


@dataclass(order=True)
class Mistake:
    """A misclassified row, or a valence-arousal estimate with its error."""

    severity: float
    """Confidence in the wrong label; for valence and arousal, the distance to the true point."""
    path: str
    true: str
    predicted: str
    image: bytes = field(repr=False)


class WorstMistakes:
    """Keeps the most severe mistakes of all batches; ``labels`` are those of the model."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self._worst: list[Mistake] = []

    def add(self, table: pa.Table, predictions: Predictions) -> None:
        """Add a batch: ``table`` has path, image, the label ``true``, valence and arousal."""
        if predictions.probabilities is not None:
            true = table["true"].to_pylist()
            predicted = [self.labels[index] for index in predictions.probabilities.argmax(axis=1)]
            severity = predictions.probabilities.max(axis=1)
            wrong = [row for row, label in enumerate(true) if label is not None and label != predicted[row]]
        else:
            assert predictions.valence_arousal is not None
            points = affect_values(table)
            true, predicted = (
                [f"({valence:+.2f}, {arousal:+.2f})" for valence, arousal in values]
                for values in (points, predictions.valence_arousal)
            )
            severity = np.linalg.norm(points - predictions.valence_arousal, axis=1)
            wrong = np.flatnonzero(~np.isnan(severity)).tolist()
        paths, images = table["path"].to_pylist(), table["image"]
        rows = heapq.nlargest(MAX_MISTAKES, wrong, key=lambda row: severity[row])
        batch = [
            Mistake(float(severity[row]), paths[row], true[row], predicted[row], images[row].as_py()) for row in rows
        ]
        self._worst = heapq.nlargest(MAX_MISTAKES, self._worst + batch)

    def ranked(self) -> list[Mistake]:
        """The most severe first."""
        return sorted(self._worst, reverse=True)
