"""Drift: the population stability index of two samples of counts, with its sampling error.

PSI = sum over bins of (p - q) ln(p / q), for the shares p and q of both samples: Jeffreys' divergence (1946). Without
drift, PSI / (1/n + 1/m) follows a chi-squared distribution with B - 1 degrees of freedom, for n and m counts in B bins
(Yurdakul, Statistical Properties of Population Stability Index, Western Michigan University, 2018). So chance alone
gives (B - 1)(1/n + 1/m) on average, whatever the rules of thumb say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel

from fer.evaluation.bootstrap import RESAMPLES, Estimate, with_interval

SMOOTHING = 0.5
"""Added to each count, so that an empty bin has a finite logarithm."""
MODERATE, LARGE = 0.1, 0.25
"""Rules of thumb (Siddiqi, Credit Risk Scorecards, 2006)."""

Level = Literal["none", "small", "moderate", "large"]


class Drift(BaseModel):
    """How far a sample is from a reference."""

    psi: Estimate
    """With its 95% bootstrap interval. 0: equal shares; it has no upper limit."""
    expected: float
    """What chance gives on average without drift."""
    chance: float
    """What chance exceeds in 5% of the samples without drift."""
    level: Level
    """`none` if chance explains it, else by the rules of thumb: small, moderate from 0.1, large from 0.25."""


def population_stability(sample: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The PSI of counts (..., B) and (..., B), at least 0."""
    p, q = _shares(sample), _shares(reference)
    return ((p - q) * np.log(p / q)).sum(-1)


def measure_drift(sample: Sequence[int], reference: Sequence[int], seed: int = 0) -> Drift:
    """The drift of the counts of a sample from those of a reference; neither may be empty.

    The interval resamples both. The chance level resamples both from their pooled shares, and so holds for rare bins,
    for which the chi-squared distribution is no good approximation.
    """
    counts, other = np.asarray(sample), np.asarray(reference)
    n, m = counts.sum(), other.sum()
    assert min(n, m) > 0, "both samples have counts"
    random = np.random.default_rng(seed)
    value = float(population_stability(counts, other))
    resampled = population_stability(
        random.multinomial(n, counts / n, RESAMPLES), random.multinomial(m, other / m, RESAMPLES)
    )
    pooled = (counts + other) / (n + m)
    by_chance = population_stability(random.multinomial(n, pooled, RESAMPLES), random.multinomial(m, pooled, RESAMPLES))
    chance = float(np.quantile(by_chance, 0.95))
    return Drift(
        psi=with_interval(value, resampled, 0, np.inf),
        expected=expected_by_chance(len(counts), n, m),
        chance=chance,
        level=_level(value, chance),
    )


def expected_by_chance(bins: int, n: int, m: int) -> float:
    """The mean of the PSI of two samples of n and m from one distribution over ``bins`` bins."""
    return float((bins - 1) * (1 / n + 1 / m))


def _shares(counts: np.ndarray) -> np.ndarray:
    smoothed = counts + SMOOTHING
    return smoothed / smoothed.sum(-1, keepdims=True)


def _level(psi: float, chance: float) -> Level:
    if psi <= chance:
        return "none"
    return "large" if psi >= LARGE else "moderate" if psi >= MODERATE else "small"
