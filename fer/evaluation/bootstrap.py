"""Bootstrap intervals for metrics that are functions of sums over rows, as nearly all are.

The rows come in batches and are not kept: memory depends on the number of resamples only. Where the sums are counts,
resampling rows is drawing the counts from a multinomial distribution. Other sums are resampled as the rows come: each
resample gives a row (or a group of rows) a weight from a Poisson distribution with mean 1 (Chamandy et al., Estimating
Uncertainty for Massive Data Streams, 2012).

SciPy's `bootstrap` (BCa) needs all rows, and 0.12 s for the macro F1 of 3,589 of them; all metrics together take 0.07 s
here, and the ends of the intervals differ by 1% of their width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from pydantic import BaseModel

RESAMPLES = 1000
_ROWS_PER_CHUNK = 2048
_GROUPS_IN_MEMORY = 4096
_STEPS = 2**16


@cache
def _poisson_weights() -> np.ndarray:
    """Poisson weights of equally probable 16-bit numbers: looking them up is five times faster than drawing them."""
    from scipy.stats import poisson  # which a server, that needs `Estimate`, should not import

    return poisson.ppf((np.arange(_STEPS) + 0.5) / _STEPS, 1).astype(np.float32)


class Estimate(BaseModel):
    """A metric with its 95% interval."""

    value: float
    low: float
    high: float


def resample_counts(counts: np.ndarray, random: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """How many of the resampled rows are in each category: (resamples, C), for categories of ``counts`` (C,) rows."""
    drawn = np.zeros((resamples, len(counts)), np.int64)
    occurring = np.flatnonzero(counts)
    if len(occurring):
        rows = counts.sum()
        drawn[:, occurring] = random.multinomial(rows, counts[occurring] / rows, resamples)
    return drawn


class PoissonSums:
    """Sums of ``quantities`` numbers per row, and their sums in bootstrap resamples.

    The rows of a group (a subject, a video) are resampled together, because they are not independent; a row whose group
    is None is resampled by itself.
    """

    def __init__(self, quantities: int, seed: int, resamples: int = RESAMPLES) -> None:
        self.seed, self.resamples = seed, resamples
        self.resampled = np.zeros((resamples, quantities))
        self._random = np.random.default_rng(seed)
        self._group_weights = lru_cache(_GROUPS_IN_MEMORY)(self._draw_for_group)

    def add(self, quantities: np.ndarray, groups: Sequence[str | None]) -> None:
        """Add rows: quantities (N, F) and groups (N,)."""
        for start in range(0, len(quantities), _ROWS_PER_CHUNK):
            rows = slice(start, start + _ROWS_PER_CHUNK)
            weights = np.empty((len(quantities[rows]), self.resamples), np.float32)
            alone = [row for row, group in enumerate(groups[rows]) if group is None]
            weights[alone] = self._draw(self._random, len(alone))
            for row, group in enumerate(groups[rows]):
                if group is not None:
                    weights[row] = self._group_weights(group)
            self.resampled += weights.T @ quantities[rows]

    def _draw(self, random: np.random.Generator, rows: int) -> np.ndarray:
        return _poisson_weights()[random.integers(0, _STEPS, (rows, self.resamples), np.uint16)]

    def _draw_for_group(self, group: str) -> np.ndarray:
        """The weights of a group, whenever one of its rows comes."""
        digest = hashlib.sha256(f"{self.seed}/{group}".encode()).digest()
        return self._draw(np.random.default_rng(int.from_bytes(digest)), 1)[0]


def with_interval(value: float, resampled: np.ndarray, lowest: float, highest: float) -> Estimate:
    """``value`` with the percentile interval of its resamples (R,), bias-corrected and clipped to its range.

    The calibration error is biased upwards under resampling, so that its plain percentile interval can miss the value;
    for the other metrics the bias is negligible. Resamples that are NaN are ignored.
    """
    resampled = resampled[~np.isnan(resampled)]
    bias = resampled.mean() - value
    low, high = np.clip(np.quantile(resampled, [0.025, 0.975]) - bias, lowest, highest)
    return Estimate(value=float(value), low=float(low), high=float(high))
