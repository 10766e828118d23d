"""Metrics of estimates of valence and arousal, from sums that are gathered batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

from fer.evaluation.bootstrap import Estimate, PoissonSums, with_interval

QUANTITIES = 8


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


class RegressionSums:
    """What the metrics need of all rows: ``update`` adds a batch, ``compute`` gives the metrics."""

    def __init__(self, seed: int = 0) -> None:
        self.unlabelled = 0
        self.sums = np.zeros(QUANTITIES)
        self.resamples = PoissonSums(QUANTITIES, seed)
        self.lowest, self.highest = np.full(2, np.inf), np.full(2, -np.inf)

    @property
    def rows(self) -> int:
        return int(self.sums[0])

    def update(self, true: np.ndarray, predicted: np.ndarray, groups: Sequence[str | None] | None = None) -> None:
        """Add estimates (N,) and true values (N,); rows with NaN in ``true`` are only counted."""
        known = ~np.isnan(true)
        self.unlabelled += int((~known).sum())
        if not known.any():
            return
        x, y = both = np.stack([true[known], predicted[known]]).astype(np.float64)
        self.lowest = np.minimum(self.lowest, both.min(axis=1))
        self.highest = np.maximum(self.highest, both.max(axis=1))
        same_sign = np.sign(x) == np.sign(y)
        quantities = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y, (x - y) ** 2, same_sign], axis=1)
        self.sums += quantities.sum(axis=0)
        groups = [None] * len(known) if groups is None else groups
        self.resamples.add(quantities, [group for group, here in zip(groups, known, strict=True) if here])

    def compute(self) -> RegressionMetrics:
        """The metrics of all rows with a true value; at least one."""
        assert self.rows, "metrics need rows"
        resampled, exact = _correlations(self.resamples.resampled), _correlations(self.sums[None])
        constant = (self.lowest == self.highest).any()
        ccc, pearson = (0.0 if constant else float(exact[name][0]) for name in ("ccc", "pearson"))
        return RegressionMetrics(
            rows=self.rows,
            unlabelled=self.unlabelled,
            ccc=with_interval(ccc, resampled["ccc"], -1, 1),
            pearson=with_interval(pearson, resampled["pearson"], -1, 1),
            rmse=with_interval(exact["rmse"][0], resampled["rmse"], 0, 2),
            sign_agreement=with_interval(exact["sign_agreement"][0], resampled["sign_agreement"], 0, 1),
        )


def _correlations(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of each resample from its sums of 1, x, y, x², y², xy, (x-y)² and sign agreement."""
    rows = np.where(sums[:, 0] > 0, sums[:, 0], np.nan)  # a resample of few rows may have none
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
