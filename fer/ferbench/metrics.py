"""Metrics of predictions that may be "unknown" or missing. Independent of files and models.

Values come from scikit-learn, intervals from the bootstrap over questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support, recall_score

from fer.answers import UNKNOWN
from fer.evaluation.bootstrap import Estimate, resample_counts, with_interval
from fer.evaluation.classification import CLASS_METRICS, ClassMetrics, class_metrics
from fer.ferbench.predictions import Protocol

HEADLINES = ("accuracy", "precision", "recall", "f1")


class ProtocolMetrics(BaseModel):
    """Metrics in [0, 1] with their intervals, and counts, under one protocol."""

    protocol: Protocol
    rows: int
    """The denominator: all questions; in UniFER's protocol those without an error."""
    errors: int
    unknowns: int
    """Responses from which the protocol parses no label."""
    accuracy: Estimate
    precision: Estimate
    """Macro average, like recall and F1: over the classes that occur in the data; in UniFER's protocol also over
    those that are only predicted, "unknown" included."""
    recall: Estimate
    f1: Estimate
    uar: Estimate
    """Unweighted average recall: over the classes that occur in the data, in both protocols."""
    classes: list[ClassMetrics]
    labels: list[str]
    confusion: list[list[int]]
    """Rows are true classes, columns predicted ones; the last column is "unknown"."""


def protocol_metrics(
    labels: Sequence[str], true: Sequence[str], predicted: Sequence[str | None], protocol: Protocol, seed: int = 0
) -> ProtocolMetrics | None:
    """Compare predictions with true labels, both among ``labels``. None if UniFER's protocol excludes every row.

    A prediction is a label, "unknown", or None after an error, which UniFER's protocol excludes and the strict one
    counts as wrong.
    """
    errors = sum(label is None for label in predicted)
    rows = [(t, p) for t, p in zip(true, predicted, strict=True) if protocol == "strict" or p is not None]
    if not rows:
        return None
    names = [*labels, UNKNOWN]
    index = {name: i for i, name in enumerate(names)}
    t = np.array([index[label] for label, _ in rows])
    p = np.array([index[label or UNKNOWN] for _, label in rows])
    present = np.unique(t)
    averaged = present if protocol == "strict" else np.union1d(t, p)
    macro = precision_recall_fscore_support(t, p, labels=averaged, average="macro", zero_division=0)
    values = {
        "accuracy": accuracy_score(t, p),
        **dict(zip(("precision", "recall", "f1"), macro[:3], strict=True)),
        "uar": recall_score(t, p, labels=present, average="macro", zero_division=0),
    }
    counts = confusion_matrix(t, p, labels=np.arange(len(names)))
    resampled = _resample(counts, protocol, seed)
    scores = precision_recall_fscore_support(t, p, labels=np.arange(len(labels)), zero_division=0)[:3]
    return ProtocolMetrics(
        protocol=protocol,
        rows=len(rows),
        errors=errors,
        unknowns=sum(label == UNKNOWN for _, label in rows),
        **{name: with_interval(value, resampled[name], 0, 1) for name, value in values.items()},
        classes=class_metrics(labels, counts, scores, [resampled[f"class {name}"] for name in CLASS_METRICS]),
        labels=list(labels),
        confusion=counts[:-1].tolist(),
    )


def _resample(counts: np.ndarray, protocol: Protocol, seed: int) -> dict[str, np.ndarray]:
    """Metrics of each bootstrap resample (R,), and of its classes (R, names), NaN for a class without rows."""
    sums = resample_counts(counts.ravel(), np.random.default_rng(seed)).reshape(-1, *counts.shape)
    hits, support, predicted = np.diagonal(sums, axis1=1, axis2=2), sums.sum(axis=2), sums.sum(axis=1)
    ratios = {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(support + predicted, 1),
    }
    present = support > 0
    averaged = present if protocol == "strict" else present | (predicted > 0)
    return {
        "accuracy": hits.sum(axis=1) / support.sum(axis=1),
        **{name: np.nanmean(np.where(averaged, ratio, np.nan), axis=1) for name, ratio in ratios.items()},
        "uar": np.nanmean(np.where(present, ratios["recall"], np.nan), axis=1),
        **{f"class {name}": np.where(present, ratio, np.nan) for name, ratio in ratios.items()},
    }
