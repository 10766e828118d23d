"""Metrics of class probabilities and of valence-arousal estimates, independent of models and data sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fer.evaluation.classification import ClassificationMetrics, ClassificationSums
from fer.evaluation.regression import RegressionMetrics, RegressionSums


def classification_metrics(
    labels: Sequence[str],
    true: np.ndarray,
    probabilities: np.ndarray,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
) -> ClassificationMetrics:
    """Compare class probabilities (N, K) with true class indices (N,), N > 0.

    ``labels`` are the K names. With ``groups`` (N), the intervals resample whole groups; ``seed`` is the bootstrap's.
    """
    sums = ClassificationSums(labels, seed)
    sums.update(true, probabilities, groups)
    return sums.compute()


def regression_metrics(
    true: np.ndarray, predicted: np.ndarray, groups: Sequence[str | None] | None = None, seed: int = 0
) -> RegressionMetrics:
    """Compare estimates (N,) of a value in [-1, 1] with the true values (N,); rows with NaN in ``true`` are left out.

    At least one row must have a true value. ``groups`` and ``seed`` are those of `classification_metrics`.
    """
    sums = RegressionSums(seed)
    sums.update(true, predicted, groups)
    return sums.compute()
