"""What is measured of a score's estimates, with bootstrap intervals over videos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import cohen_kappa_score, confusion_matrix, mean_absolute_error, mean_squared_error

from fer.dynamics.predictor import levels
from fer.evaluation.bootstrap import RESAMPLES, Estimate, with_interval


class Level(BaseModel):
    """The rows of one true level."""

    level: int
    rows: int
    accuracy: float | None
    """Share of them whose rounded estimate is that level; None without rows."""


class ScoreFigures(BaseModel):
    """How well one score is estimated; estimates are real numbers, and rounded where a level is meant."""

    score: str
    rows: int
    videos: int
    mse: Estimate
    mae: Estimate
    pearson: Estimate
    """0 where either side is constant, and so is spearman."""
    spearman: Estimate
    kappa: Estimate
    """Cohen's kappa with quadratic weights (1968), of rounded estimates; 0 where both are one constant."""
    icc: Estimate
    """ICC(2,1), agreement of two raters, the annotator and the model (Shrout and Fleiss, 1979); of few rows it
    can be far below 0."""
    accuracy: Estimate
    """Share of rounded estimates that are the level."""
    within_half: Estimate
    """Share of estimates at most 0.5 from the level; and likewise at most 1."""
    within_one: Estimate
    levels: list[Level]
    confusion: list[list[int]]
    """Rows: true level; columns: rounded estimate."""


RANGES: dict[str, tuple[float, float]] = {
    "mse": (0, np.inf),
    "mae": (0, np.inf),
    "pearson": (-1, 1),
    "spearman": (-1, 1),
    "kappa": (-1, 1),
}
RANGES |= {"icc": (-np.inf, 1), "accuracy": (0, 1), "within_half": (0, 1), "within_one": (0, 1)}


def judge(
    score: str, top: int, true: np.ndarray, estimated: np.ndarray, videos: Sequence[str], seed: int = 0
) -> ScoreFigures:
    """Judge estimates (N,) of a score against its true levels (N,) from 0 to ``top``; ``videos`` (N,) names videos.

    The intervals are those of drawing whole videos: frames of one video are alike.
    """
    assert len(true) == len(estimated) == len(videos) > 0, "metrics need rows"
    by_video = [np.flatnonzero(np.array(videos) == video) for video in dict.fromkeys(videos)]
    random = np.random.default_rng(seed)
    resampled: dict[str, list[float]] = {name: [] for name in RANGES}
    for _ in range(RESAMPLES):
        drawn = np.concatenate([by_video[number] for number in random.integers(0, len(by_video), len(by_video))])
        for name, value in values(true[drawn], estimated[drawn], top).items():
            resampled[name].append(value)
    figures = {
        name: with_interval(value, np.array(resampled[name]), *RANGES[name])
        for name, value in values(true, estimated, top).items()
    }
    counts = confusion_matrix(true, levels(estimated), labels=range(top + 1))
    support = counts.sum(axis=1)
    return ScoreFigures(
        score=score,
        rows=len(true),
        videos=len(by_video),
        **figures,
        levels=[
            Level(level=n, rows=int(support[n]), accuracy=counts[n, n] / support[n] if support[n] else None)
            for n in range(top + 1)
        ],
        confusion=counts.tolist(),
    )


def values(true: np.ndarray, estimated: np.ndarray, top: int) -> dict[str, float]:
    """The figures of `ScoreFigures`, without intervals."""
    rounded = levels(estimated)
    error = np.abs(estimated - true)
    constant = np.ptp(true) == 0 or np.ptp(estimated) == 0
    one_level = np.ptp(true) == 0 and np.ptp(rounded) == 0
    return {
        "mse": float(mean_squared_error(true, estimated)),
        "mae": float(mean_absolute_error(true, estimated)),
        "pearson": 0.0 if constant else float(pearsonr(true, estimated).statistic),
        "spearman": 0.0 if constant else float(spearmanr(true, estimated).statistic),
        "kappa": 0.0
        if one_level
        else float(cohen_kappa_score(true, rounded, labels=range(top + 1), weights="quadratic")),
        "icc": intraclass_correlation(np.stack([true, estimated], axis=1).astype(np.float64)),
        "accuracy": float(np.mean(rounded == true)),
        "within_half": float(np.mean(error <= 0.5)),
        "within_one": float(np.mean(error <= 1)),
    }


def intraclass_correlation(ratings: np.ndarray) -> float:
    """ICC(2,1) of ratings (rows, raters): two-way random effects, absolute agreement, a single rater. 0 for one row."""
    rows, raters = ratings.shape
    if rows < 2:
        return 0.0
    mean, by_row, by_rater = ratings.mean(), ratings.mean(axis=1), ratings.mean(axis=0)
    between_rows = raters * np.sum((by_row - mean) ** 2) / (rows - 1)
    between_raters = rows * np.sum((by_rater - mean) ** 2) / (raters - 1)
    rest = np.sum((ratings - by_row[:, None] - by_rater + mean) ** 2) / ((rows - 1) * (raters - 1))
    spread = between_rows + (raters - 1) * rest + raters * (between_raters - rest) / rows
    return float((between_rows - rest) / spread) if spread > 0 else 0.0
