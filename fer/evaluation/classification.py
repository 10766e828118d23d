"""Metrics of class probabilities, from counts that are gathered batch by batch.

Values come from scikit-learn, and those that it lacks from the sums that the 95% bootstrap intervals resample. Macro
averages cover the classes that the data has: a class without rows has no recall, and is left out instead of counting as
zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support, recall_score

from fer.evaluation.bootstrap import RESAMPLES, Estimate, PoissonSums, resample_counts, with_interval

BINS = 15
SMALLEST = float(np.finfo(np.float32).eps)
CLASS_METRICS = ("precision", "recall", "f1")
_DRAWS_PER_CHUNK = 4_000_000


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
    loss: Estimate
    """Mean cross-entropy, in nats: not in [0, 1]. A probability of 0 counts as `SMALLEST`."""
    classes: list[ClassMetrics]
    confusion: list[list[int]]
    """Rows: true class; columns: predicted class."""
    reliability: list[CalibrationBin]


class ClassificationSums:
    """What the metrics need of all rows: ``update`` adds a batch, ``compute`` gives the metrics.

    A row adds to sums: of its cell of the confusion matrix, of whether the top two include the truth, of rows,
    confidence and hits in its bin of confidence, and of the loss. ``labels`` are the K names, ``seed`` is that of the
    bootstrap.
    """

    def __init__(self, labels: Sequence[str], seed: int = 0) -> None:
        classes = len(labels)
        self.labels, self.seed, self.cells = list(labels), seed, classes * classes
        self.sums = np.zeros(self.cells + 1 + 3 * BINS + 1)
        self.groups: set[str] = set()
        self.grouped: PoissonSums | None = None
        # Rows without a group by all that is resampled together, and the moments of their confidence in each bin and of
        # their loss.
        self.categories = np.zeros((self.cells, 2, BINS), np.int64)
        self.confidence = np.zeros((2, BINS))
        self.loss = np.zeros(2)

    @property
    def rows(self) -> int:
        return int(self.sums[: self.cells].sum())

    def update(self, true: np.ndarray, probabilities: np.ndarray, groups: Sequence[str | None] | None = None) -> None:
        """Add rows with true class indices (N,), probabilities (N, K), and groups (N,) that are resampled whole."""
        assert len(true) == len(probabilities), "one true class per row"
        assert probabilities.shape[1] == len(self.labels), "one probability per label"
        # Bins are [low, high): a confidence of exactly 1 belongs to the last of them.
        probabilities = np.minimum(probabilities, np.nextafter(np.float32(1), np.float32(0)), dtype=np.float32)
        best_two = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
        predicted = best_two[:, 0]
        in_two = (best_two == true[:, None]).any(axis=1)
        confidence = probabilities[np.arange(len(true)), predicted]
        bins = np.searchsorted(np.linspace(0, 1, BINS + 1, dtype=np.float32), confidence, side="right") - 1
        cell = true * len(self.labels) + predicted
        losses = -np.log(np.maximum(probabilities[np.arange(len(true)), true], SMALLEST), dtype=float)

        quantities = self._quantities(cell, in_two, bins, confidence, predicted == true, losses)
        self.sums += quantities.sum(axis=0)
        named = [row for row, group in enumerate(groups or ()) if group is not None]
        names = [group for group in groups or () if group is not None]
        if names:
            self.groups.update(names)
            self.grouped = self.grouped or PoissonSums(len(self.sums), self.seed)
            self.grouped.add(quantities[named], names)
        alone = np.ones(len(true), bool)
        alone[named] = False
        np.add.at(self.categories, (cell[alone], in_two[alone].astype(int), bins[alone]), 1)
        for power, moment in enumerate(self.confidence, 1):
            moment += np.bincount(bins[alone], confidence[alone].astype(float) ** power, BINS)
        self.loss += losses[alone].sum(), np.square(losses[alone]).sum()

    def compute(self) -> ClassificationMetrics:
        """The metrics of all rows; at least one."""
        assert self.rows, "metrics need rows"
        classes = len(self.labels)
        counts = self.sums[: self.cells].reshape(classes, classes).astype(int)
        true, predicted = (axis.ravel() for axis in np.indices(counts.shape))
        weights = {"sample_weight": counts.ravel()}
        present = np.flatnonzero(counts.sum(axis=1))
        resampled = _from_sums(self._resample(), classes)
        exact = _from_sums(self.sums[None], classes)
        average = {"labels": present, "zero_division": 0, **weights}
        values = {
            "accuracy": accuracy_score(true, predicted, **weights),
            "macro_f1": f1_score(true, predicted, average="macro", **average),
            "weighted_f1": f1_score(true, predicted, average="weighted", **average),
            "uar": recall_score(true, predicted, average="macro", **average),
            "top2_accuracy": exact["top2_accuracy"][0],
            "ece": exact["ece"][0],
        }
        metrics = {name: with_interval(value, resampled[name], 0, 1) for name, value in values.items()}
        metrics["loss"] = with_interval(exact["loss"][0], resampled["loss"], 0, np.inf)
        scores = precision_recall_fscore_support(true, predicted, labels=np.arange(classes), zero_division=0, **weights)
        return ClassificationMetrics(
            labels=self.labels,
            rows=self.rows,
            groups=len(self.groups) or None,
            **metrics,
            balanced_accuracy=metrics["uar"],
            classes=class_metrics(self.labels, counts, scores[:3], [resampled[name] for name in CLASS_METRICS]),
            confusion=counts.tolist(),
            reliability=self._reliability(),
        )

    def confusions(self) -> tuple[np.ndarray, np.ndarray]:
        """The confusion matrix (K, K), and those of the bootstrap resamples (R, K, K)."""
        shape = (-1, len(self.labels), len(self.labels))
        return self.sums[: self.cells].reshape(shape)[0], self._resample()[:, : self.cells].reshape(shape)

    def _quantities(
        self,
        cell: np.ndarray,
        in_two: np.ndarray,
        bins: np.ndarray,
        confidence: np.ndarray,
        hits: np.ndarray,
        losses: np.ndarray,
    ) -> np.ndarray:
        """What each row adds to the sums."""
        rows, first = np.arange(len(cell)), self.cells + 1
        quantities = np.zeros((len(cell), len(self.sums)))
        quantities[rows, cell] = 1
        quantities[rows, self.cells] = in_two
        quantities[rows, first + bins] = 1
        quantities[rows, first + BINS + bins] = confidence
        quantities[rows, first + 2 * BINS + bins] = hits
        quantities[rows, -1] = losses
        return quantities

    def _resample(self) -> np.ndarray:
        """The sums in bootstrap resamples (R, F)."""
        sums = np.zeros((RESAMPLES, len(self.sums))) if self.grouped is None else self.grouped.resampled.copy()
        random = np.random.default_rng(self.seed)
        classes = len(self.labels)
        rows = np.maximum(self.categories.sum(axis=(0, 1)), 1)
        mean = self.confidence[0] / rows
        deviation = np.sqrt(np.maximum(self.confidence[1] / rows - mean**2, 0))
        alone = max(int(self.categories.sum()), 1)
        loss_deviation = np.sqrt(max(self.loss[1] - self.loss[0] ** 2 / alone, 0))
        step = max(1, _DRAWS_PER_CHUNK // self.categories.size)
        for start in range(0, RESAMPLES, step):
            part = sums[start : start + step]
            drawn = resample_counts(self.categories.ravel(), random, len(part))
            drawn = drawn.reshape(-1, *self.categories.shape)
            in_bins = drawn.sum(axis=(1, 2))
            # The sum of the confidences of n rows of a bin, which is narrow, is as good as normal.
            noise = random.standard_normal(in_bins.shape) * deviation * np.sqrt(in_bins)
            hits = drawn[:, :: classes + 1].sum(axis=(1, 2))
            top_two = drawn[:, :, 1].sum(axis=(1, 2))[:, None]
            loss = self.loss[0] + random.standard_normal((len(part), 1)) * loss_deviation
            part += np.hstack([drawn.sum(axis=(2, 3)), top_two, in_bins, in_bins * mean + noise, hits, loss])
        return sums[sums[:, : self.cells].any(axis=1)]  # of few groups, a resample may have none

    def _reliability(self) -> list[CalibrationBin]:
        rows, confidence, hits = self.sums[self.cells + 1 : -1].reshape(3, BINS)
        return [
            CalibrationBin(
                low=number / BINS,
                high=(number + 1) / BINS,
                rows=int(rows[number]),
                confidence=confidence[number] / rows[number],
                accuracy=hits[number] / rows[number],
            )
            for number in np.flatnonzero(rows).tolist()
        ]


def class_metrics(
    labels: Sequence[str], counts: np.ndarray, scores: Sequence[np.ndarray], resampled: Sequence[np.ndarray]
) -> list[ClassMetrics]:
    """The metrics of each class; ``scores`` and ``resampled`` are precision, recall and F1: (K,) and (R, K) each."""
    classes = []
    for index, label in enumerate(labels):
        support = int(counts[index].sum())
        metrics = {
            name: with_interval(score[index], resample[:, index], 0, 1) if support else None
            for name, score, resample in zip(CLASS_METRICS, scores, resampled, strict=True)
        }
        classes.append(ClassMetrics(label=label, support=support, predicted=int(counts[:, index].sum()), **metrics))
    return classes


def _from_sums(sums: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Metrics of each resample (R,) and of its classes (R, K), NaN for a class without rows."""
    cells = sums[:, : classes * classes].reshape(-1, classes, classes)
    hits, support, predicted = np.diagonal(cells, axis1=1, axis2=2), cells.sum(axis=2), cells.sum(axis=1)
    rows = support.sum(axis=1)
    absent = support == 0
    recall = np.where(absent, np.nan, hits / np.maximum(support, 1))
    precision = np.where(absent, np.nan, hits / np.maximum(predicted, 1))
    f1 = np.where(absent, np.nan, 2 * hits / np.maximum(support + predicted, 1))
    confidence, correct = sums[:, classes * classes + 1 + BINS : -1].reshape(-1, 2, BINS).swapaxes(0, 1)
    return {
        "accuracy": hits.sum(axis=1) / rows,
        "macro_f1": np.nanmean(f1, axis=1),
        "weighted_f1": np.nansum(f1 * support, axis=1) / rows,
        "uar": np.nanmean(recall, axis=1),
        "top2_accuracy": sums[:, classes * classes] / rows,
        "ece": np.abs(confidence - correct).sum(axis=1) / rows,
        "loss": sums[:, -1] / rows,
        "recall": recall,
        "precision": precision,
        "f1": f1,
    }
