"""What an evaluation computes of the rows that have a label: metrics, the same by subgroup, and what needs a review."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

from fer.classifier.evaluate.attributes import Attributes
from fer.evaluation.classification import ClassificationMetrics, ClassificationSums
from fer.evaluation.subgroups import SubgroupMetrics, SubgroupSums


class Review(BaseModel):
    """Labelled rows by whether the model is confident."""

    min_confidence: float
    uncertain: int = 0
    """Rows with a lower confidence, which a person should look at."""
    confident: int = 0
    hits: int = 0
    """Correct labels among the confident rows."""

    def add(self, confidence: np.ndarray, correct: np.ndarray) -> None:
        """Add rows (N,)."""
        sure = confidence >= self.min_confidence
        self.uncertain += int((~sure).sum())
        self.confident += int(sure.sum())
        self.hits += int((sure & correct).sum())


class LabelledRows:
    """Sums over the rows that have a label of the model."""

    def __init__(self, labels: Sequence[str], seed: int, attributes: Attributes | None, min_confidence: float) -> None:
        self.sums, self.attributes = ClassificationSums(labels, seed), attributes
        self.subgroups = [SubgroupSums(labels, name, seed) for name in attributes.names] if attributes else []
        self.review = Review(min_confidence=min_confidence) if min_confidence else None
        self.last_path = ""

    def update(
        self, paths: Sequence[str], true: np.ndarray, probabilities: np.ndarray, groups: Sequence[str | None]
    ) -> None:
        """Add rows: paths, true class indices (N,), probabilities (N, K), and groups that are resampled whole."""
        if not paths:
            return
        self.sums.update(true, probabilities, groups)
        if self.review is not None:
            self.review.add(probabilities.max(axis=1), probabilities.argmax(axis=1) == true)
        if self.attributes is not None:
            self.last_path = paths[-1]
            values = zip(*(self.attributes.of(path) for path in paths), strict=True)
            for sums, column in zip(self.subgroups, values, strict=True):
                sums.update(column, true, probabilities, groups)

    def metrics(self) -> ClassificationMetrics | None:
        """None without a row."""
        return self.sums.compute() if self.sums.rows else None

    def by_subgroup(self) -> list[SubgroupMetrics]:
        """By each attribute. Raises UserError if none of the rows is in the file of the attributes."""
        if self.attributes is not None:
            self.attributes.check_found(self.last_path)
        return [sums.compute() for sums in self.subgroups]
