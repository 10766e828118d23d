"""Bootstrap intervals for metrics that are functions of sums over rows, as nearly all are.

Resampling is then one matrix product: how often each resample draws each row, times the quantities of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

RESAMPLES = 1000
_DRAWS_PER_CHUNK = 4_000_000


class Estimate(BaseModel):
    """A metric with its 95% interval."""

    value: float
    low: float
    high: float


def bootstrap_sums(
    quantities: np.ndarray, groups: Sequence[str | None] | None, seed: int, resamples: int = RESAMPLES
) -> np.ndarray:
    """Sums of per-row ``quantities`` (N, F) over bootstrap resamples of the rows: (resamples, F).

    With ``groups`` (subjects, videos), whole groups are resampled, because their rows are not independent; a row whose
    group is None is its own group.
    """
    units = quantities if groups is None else _sum_by_group(quantities, groups)
    count = len(units)
    random = np.random.default_rng(seed)
    sums = np.empty((resamples, units.shape[1]), units.dtype)
    step = max(1, _DRAWS_PER_CHUNK // count)
    for start in range(0, resamples, step):
        part = min(step, resamples - start)
        indices = random.integers(0, count, (part, count)) + np.arange(part)[:, None] * count
        draws = np.bincount(indices.ravel(), minlength=part * count).reshape(part, count)
        sums[start : start + part] = draws.astype(units.dtype) @ units
    return sums


def with_interval(value: float, resampled: np.ndarray, lowest: float, highest: float) -> Estimate:
    """``value`` with the percentile interval of its resamples (R,), bias-corrected and clipped to its range.

    The calibration error is biased upwards under resampling, so that its plain percentile interval can miss the value;
    for the other metrics the bias is negligible. Resamples that are NaN are ignored.
    """
    resampled = resampled[~np.isnan(resampled)]
    bias = resampled.mean() - value
    low, high = np.clip(np.quantile(resampled, [0.025, 0.975]) - bias, lowest, highest)
    return Estimate(value=float(value), low=float(low), high=float(high))


def _sum_by_group(quantities: np.ndarray, groups: Sequence[str | None]) -> np.ndarray:
    names = [row if group is None else group for row, group in enumerate(groups)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    sums = np.zeros((len(numbers), quantities.shape[1]), quantities.dtype)
    np.add.at(sums, [numbers[name] for name in names], quantities)
    return sums
