"""Metrics of estimated scores against true levels, with bootstrap intervals over videos.

The ICC is pingouin's ICC(A,1) to the last digit, in 0.05 ms instead of 79 for 156 rows; the bootstrap needs it 2,000
times. torchmetrics has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import cohen_kappa_score, confusion_matrix, mean_absolute_error, mean_squared_error

from fer.dynamics.predictor import to_levels
from fer.evaluation.bootstrap import RESAMPLES, Estimate, with_interval


class LevelAccuracy(BaseModel):
    """Accuracy on the rows of one true level."""

    level: int
    rows: int
    accuracy: float | None
    """Fraction of the rows whose rounded estimate is the level; None without rows."""


class ScoreMetrics(BaseModel):
    """Metrics of one score. Estimates are real numbers, rounded for accuracy, kappa and the confusion matrix."""

    score: str
    rows: int
    videos: int
    mse: Estimate
    mae: Estimate
    pearson: Estimate
    """0 if estimates or levels are constant; spearman likewise."""
    spearman: Estimate
    kappa: Estimate
    """Cohen's kappa with quadratic weights (1968), of rounded estimates; 0 if both are the same constant."""
    icc: Estimate
    """ICC(2,1): agreement of two raters, the annotator and the model (Shrout and Fleiss, 1979). With few rows it
    can be far below 0."""
    accuracy: Estimate
    """Fraction of rounded estimates that equal the level."""
    within_half: Estimate
    """Fraction of estimates at most 0.5 from the level; within_one: at most 1."""
    within_one: Estimate
    levels: list[LevelAccuracy]
    confusion: list[list[int]]
    """Rows are true levels, columns rounded estimates."""


METRIC_RANGES: dict[str, tuple[float, float]] = {
    "mse": (0, np.inf),
    "mae": (0, np.inf),
    "pearson": (-1, 1),
    "spearman": (-1, 1),
    "kappa": (-1, 1),
}
METRIC_RANGES |= {"icc": (-np.inf, 1), "accuracy": (0, 1), "within_half": (0, 1), "within_one": (0, 1)}


def evaluate_score(
    score: str, top: int, true: np.ndarray, estimated: np.ndarray, videos: Sequence[str], seed: int = 0
) -> ScoreMetrics:
    """Metrics of estimates (N,) of a score against its true levels (N,) from 0 to ``top``; ``videos`` (N,) are names.

    The bootstrap resamples whole videos, since the frames of a video are alike.
    """
    assert len(true) == len(estimated) == len(videos) > 0, "metrics need rows"
    by_video = [np.flatnonzero(np.array(videos) == video) for video in dict.fromkeys(videos)]
    rng = np.random.default_rng(seed)
    resampled: dict[str, list[float]] = {name: [] for name in METRIC_RANGES}
    for _ in range(RESAMPLES):
        sample = np.concatenate([by_video[number] for number in rng.integers(0, len(by_video), len(by_video))])
        for name, value in compute_metrics(true[sample], estimated[sample], top).items():
            resampled[name].append(value)
    metrics = {
        name: with_interval(value, np.array(resampled[name]), *METRIC_RANGES[name])
        for name, value in compute_metrics(true, estimated, top).items()
    }
    counts = confusion_matrix(true, to_levels(estimated), labels=range(top + 1))
    support = counts.sum(axis=1)
    return ScoreMetrics(
        score=score,
        rows=len(true),
        videos=len(by_video),
        **metrics,
        levels=[
            LevelAccuracy(level=n, rows=int(support[n]), accuracy=counts[n, n] / support[n] if support[n] else None)
            for n in range(top + 1)
        ],
        confusion=counts.tolist(),
    )


def compute_metrics(true: np.ndarray, estimated: np.ndarray, top: int) -> dict[str, float]:
    """The metrics of `ScoreMetrics` without intervals."""
    rounded = to_levels(estimated)
    error = np.abs(estimated - true)
    constant = np.ptp(true) == 0 or np.ptp(estimated) == 0
    same_constant = np.ptp(true) == 0 and np.ptp(rounded) == 0
    return {
        "mse": float(mean_squared_error(true, estimated)),
        "mae": float(mean_absolute_error(true, estimated)),
        "pearson": 0.0 if constant else float(pearsonr(true, estimated).statistic),
        "spearman": 0.0 if constant else float(spearmanr(true, estimated).statistic),
        "kappa": 0.0
        if same_constant
        else float(cohen_kappa_score(true, rounded, labels=range(top + 1), weights="quadratic")),
        "icc": intraclass_correlation(np.stack([true, estimated], axis=1).astype(np.float64)),
        "accuracy": float(np.mean(rounded == true)),
        "within_half": float(np.mean(error <= 0.5)),
        "within_one": float(np.mean(error <= 1)),
    }


def intraclass_correlation(ratings: np.ndarray) -> float:
    """ICC(2,1) of ratings (rows, raters): two-way random effects, absolute agreement, single rater. 0 for one row."""
    rows, raters = ratings.shape
    if rows < 2:
        return 0.0
    mean, by_row, by_rater = ratings.mean(), ratings.mean(axis=1), ratings.mean(axis=0)
    between_rows = raters * np.sum((by_row - mean) ** 2) / (rows - 1)
    between_raters = rows * np.sum((by_rater - mean) ** 2) / (raters - 1)
    residual = np.sum((ratings - by_row[:, None] - by_rater + mean) ** 2) / ((rows - 1) * (raters - 1))
    spread = between_rows + (raters - 1) * residual + raters * (between_raters - residual) / rows
    return float((between_rows - residual) / spread) if spread > 0 else 0.0
