"""The reference of drift: how a classifier distributes its predictions on the validation split it was made with."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

FINE = 1000
"""Bins of equal width, of confidences from 0 to 1, from which those of the reference are made."""
BINS = 10


class Reference(BaseModel):
    """Counts of a model's predictions on images that it was not trained on."""

    labels: list[int]
    """Faces by predicted label, in the order of the model's labels."""
    confidence_edges: list[float]
    """Inner edges of the confidence bins, ascending: nearly the deciles, so that each bin has its share of faces."""
    confidence: list[int]
    """Faces by confidence, in one bin more than there are edges."""

    def confidence_bin(self, confidence: float) -> int:
        return bisect_right(self.confidence_edges, confidence)


def make_reference(labels: Sequence[int], confidences: np.ndarray) -> Reference:
    """The reference of counts by predicted label, and of counts (`FINE`,) by confidence."""
    total, below = int(confidences.sum()), np.cumsum(confidences)
    edges = [int(np.searchsorted(below, total * part / BINS)) + 1 for part in range(1, BINS)]
    inner = sorted({edge for edge in edges if 0 < below[edge - 1] < total})
    counts = np.diff([0, *(below[edge - 1] for edge in inner), total])
    return Reference(
        labels=[int(count) for count in labels],
        confidence_edges=[edge / FINE for edge in inner],
        confidence=[int(count) for count in counts],
    )


def reference_of(probabilities: np.ndarray) -> Reference:
    """The reference of predictions (N, labels) on a validation split."""
    bins = np.minimum((probabilities.max(axis=1) * FINE).astype(int), FINE - 1)
    labels = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return make_reference(labels.tolist(), np.bincount(bins, minlength=FINE))
