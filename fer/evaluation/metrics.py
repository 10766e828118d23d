"""Metrics of class probabilities and of valence-arousal estimates, independent of models and data sets.

Values come from scikit-learn, and those that it lacks from the sums that the 95% bootstrap intervals resample. Macro
averages cover the classes that the data has: a class without rows has no recall, and is left out instead of counting as
zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support, recall_score

from fer.evaluation.bootstrap import Estimate, bootstrap_sums, with_interval

BINS = 15


class ClassMetrics(BaseModel):
    """Metrics of one class, None if the data has no row of it."""

    label: str
    support: int
    predicted: int
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None


class CalibrationBin(BaseModel):
    """Predictions with a confidence in [low, high)."""

    low: float
    high: float
    rows: int
    confidence: float
    """Mean confidence of the predictions."""
    accuracy: float


class ClassificationMetrics(BaseModel):
    """Metrics of predicted labels. All but the counts are in [0, 1]."""

    labels: list[str]
    rows: int
    groups: int | None
    """Groups that were resampled for the intervals; None if rows were."""
    accuracy: Estimate
    macro_f1: Estimate
    weighted_f1: Estimate
    uar: Estimate
    """Unweighted average recall: the mean recall of the classes, also called balanced accuracy."""
    balanced_accuracy: Estimate
    top2_accuracy: Estimate
    ece: Estimate
    """Expected calibration error (Guo et al., ICML 2017), 15 bins of equal width."""
    classes: list[ClassMetrics]
    confusion: list[list[int]]
    """Rows: true class; columns: predicted class."""
    reliability: list[CalibrationBin]


class RegressionMetrics(BaseModel):
    """Metrics of estimates of a value in [-1, 1] (valence or arousal), those of AffectNet (arXiv 1708.03985)."""

    rows: int
    unlabelled: int
    """Rows without a true value, which the metrics leave out."""
    ccc: Estimate
    """Lin's concordance correlation coefficient, in [-1, 1]."""
    pearson: Estimate
    """Pearson correlation, in [-1, 1]; 0 if either side is constant."""
    rmse: Estimate
    sign_agreement: Estimate
    """Fraction of estimates with the sign of the true value (SAGR)."""


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
    assert len(true) == len(probabilities) > 0, "metrics need rows"
    assert probabilities.shape[1] == len(labels), "one probability per label"
    # Bins are [low, high): a confidence of exactly 1 belongs to the last of them.
    probabilities = np.minimum(probabilities, np.nextafter(np.float32(1), np.float32(0)), dtype=np.float32)
    best_two = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    predicted = best_two[:, 0]
    in_two = (best_two == true[:, None]).any(axis=1)
    confidence = probabilities[np.arange(len(true)), predicted]
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1, dtype=np.float32), confidence, side="right") - 1

    indices = np.arange(len(labels))
    counts = confusion_matrix(true, predicted, labels=indices)
    present = indices[counts.sum(axis=1) > 0]
    groups = groups if groups is not None and any(group is not None for group in groups) else None

    quantities = _quantities(len(labels), true, predicted, in_two, confidence, bins)
    resampled = _from_sums(bootstrap_sums(quantities, groups, seed), len(labels))
    uar = recall_score(true, predicted, labels=present, average="macro", zero_division=0)
    values = {
        "accuracy": accuracy_score(true, predicted),
        "macro_f1": f1_score(true, predicted, labels=present, average="macro", zero_division=0),
        "weighted_f1": f1_score(true, predicted, labels=present, average="weighted", zero_division=0),
        "uar": uar,
        "top2_accuracy": in_two.mean(),
        "ece": float(_from_sums(quantities.sum(axis=0, dtype=np.float64)[None], len(labels))["ece"][0]),
    }
    metrics = {name: with_interval(value, resampled[name], 0, 1) for name, value in values.items()}
    return ClassificationMetrics(
        labels=list(labels),
        rows=len(true),
        groups=len(set(groups)) if groups else None,
        **metrics,
        balanced_accuracy=metrics["uar"],
        classes=_classes(labels, true, predicted, counts, resampled),
        confusion=counts.tolist(),
        reliability=_reliability(confidence, predicted == true, bins),
    )


def regression_metrics(
    true: np.ndarray, predicted: np.ndarray, groups: Sequence[str | None] | None = None, seed: int = 0
) -> RegressionMetrics:
    """Compare estimates (N,) of a value in [-1, 1] with the true values (N,); rows with NaN in ``true`` are left out.

    At least one row must have a true value. ``groups`` and ``seed`` are those of `classification_metrics`.
    """
    known = ~np.isnan(true)
    assert known.any(), "metrics need rows"
    x, y = true[known].astype(np.float64), predicted[known].astype(np.float64)
    if groups is not None:
        groups = [group for group, here in zip(groups, known, strict=True) if here]
    same_sign = np.sign(x) == np.sign(y)
    quantities = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y, (x - y) ** 2, same_sign], axis=1)
    resampled = _correlations(bootstrap_sums(quantities, groups, seed))
    constant = np.ptp(x) == 0 or np.ptp(y) == 0
    exact = _correlations(quantities.sum(axis=0)[None])
    ccc, pearson = (0.0 if constant else float(exact[name][0]) for name in ("ccc", "pearson"))
    return RegressionMetrics(
        rows=len(x),
        unlabelled=int((~known).sum()),
        ccc=with_interval(ccc, resampled["ccc"], -1, 1),
        pearson=with_interval(pearson, resampled["pearson"], -1, 1),
        rmse=with_interval(float(np.sqrt(np.mean((x - y) ** 2))), resampled["rmse"], 0, 2),
        sign_agreement=with_interval(float(same_sign.mean()), resampled["sign_agreement"], 0, 1),
    )


def _quantities(
    classes: int, true: np.ndarray, predicted: np.ndarray, in_two: np.ndarray, confidence: np.ndarray, bins: np.ndarray
) -> np.ndarray:
    """Per row: one-hot cell of the confusion matrix, whether the top two include the truth, overconfidence by bin."""
    rows = np.arange(len(true))
    quantities = np.zeros((len(true), classes * classes + 1 + BINS), np.float32)
    quantities[rows, true * classes + predicted] = 1
    quantities[rows, classes * classes] = in_two
    quantities[rows, classes * classes + 1 + bins] = confidence - (predicted == true)
    return quantities


def _from_sums(sums: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Metrics of each resample (R,) and of its classes (R, K), NaN for a class without rows."""
    cells = sums[:, : classes * classes].reshape(-1, classes, classes).astype(np.float64)
    hits, support, predicted = np.diagonal(cells, axis1=1, axis2=2), cells.sum(axis=2), cells.sum(axis=1)
    rows = support.sum(axis=1)
    absent = support == 0
    recall = np.where(absent, np.nan, hits / np.maximum(support, 1))
    precision = np.where(absent, np.nan, hits / np.maximum(predicted, 1))
    f1 = np.where(absent, np.nan, 2 * hits / np.maximum(support + predicted, 1))
    return {
        "accuracy": hits.sum(axis=1) / rows,
        "macro_f1": np.nanmean(f1, axis=1),
        "weighted_f1": np.nansum(f1 * support, axis=1) / rows,
        "uar": np.nanmean(recall, axis=1),
        "top2_accuracy": sums[:, classes * classes] / rows,
        "ece": np.abs(sums[:, classes * classes + 1 :]).sum(axis=1) / rows,
        "recall": recall,
        "precision": precision,
        "f1": f1,
    }


def _classes(
    labels: Sequence[str],
    true: np.ndarray,
    predicted: np.ndarray,
    counts: np.ndarray,
    resampled: dict[str, np.ndarray],
) -> list[ClassMetrics]:
    scores = precision_recall_fscore_support(true, predicted, labels=np.arange(len(labels)), zero_division=0)
    classes = []
    for index, label in enumerate(labels):
        support = int(counts[index].sum())
        metrics = {
            name: with_interval(score[index], resampled[name][:, index], 0, 1) if support else None
            for name, score in zip(("precision", "recall", "f1"), scores[:3], strict=True)
        }
        classes.append(ClassMetrics(label=label, support=support, predicted=int(counts[:, index].sum()), **metrics))
    return classes


def _reliability(confidence: np.ndarray, correct: np.ndarray, bins: np.ndarray) -> list[CalibrationBin]:
    return [
        CalibrationBin(
            low=number / BINS,
            high=(number + 1) / BINS,
            rows=int((bins == number).sum()),
            confidence=float(confidence[bins == number].mean()),
            accuracy=float(correct[bins == number].mean()),
        )
        for number in np.unique(bins).tolist()
    ]


def _correlations(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of each resample from its sums of 1, x, y, x², y², xy, (x-y)² and sign agreement."""
    rows = sums[:, 0]
    mean_x, mean_y, square_x, square_y, product, error, agreed = (sums[:, 1:] / rows[:, None]).T
    unbiased = rows / np.maximum(rows - 1, 1)
    variance_x = np.maximum(square_x - mean_x**2, 0) * unbiased
    variance_y = np.maximum(square_y - mean_y**2, 0) * unbiased
    covariance = (product - mean_x * mean_y) * unbiased
    tiny = np.finfo(np.float64).tiny
    return {
        "ccc": 2 * covariance / np.maximum(variance_x + variance_y + (mean_x - mean_y) ** 2, tiny),
        "pearson": covariance / np.maximum(np.sqrt(variance_x * variance_y), tiny),
        "rmse": np.sqrt(error),
        "sign_agreement": agreed,
    }
