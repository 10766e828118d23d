"""95% intervals from counts and sums, of what can't be resampled because its rows are not kept."""

from __future__ import annotations

import math
from typing import NamedTuple

from fer.evaluation.bootstrap import Estimate

Z = 1.959964
"""The 97.5% quantile of the normal distribution."""


class Moments(NamedTuple):
    """Sums over the values of a sample, of which there are two or more."""

    size: int
    total: float
    squares: float

    @property
    def mean(self) -> float:
        return self.total / self.size

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        variance = max(0.0, self.squares - self.total**2 / self.size) / (self.size - 1)
        return math.sqrt(variance / self.size)


def proportion(hits: int, total: int) -> Estimate:
    """A proportion with Wilson's score interval (1927)."""
    share = hits / total
    centre = (hits + Z**2 / 2) / (total + Z**2)
    half = Z / (total + Z**2) * math.sqrt(hits * (total - hits) / total + Z**2 / 4)
    return Estimate(value=share, low=max(0.0, min(centre - half, share)), high=min(1.0, max(centre + half, share)))


def difference(first: Estimate, second: Estimate) -> Estimate:
    """First minus second, two proportions of independent samples (Newcombe 1998, method 10)."""
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value=value, low=value - below, high=value + above)


def paired_difference(first_only: int, second_only: int, pairs: int) -> Estimate:
    """First minus second, two proportions of the same sample; the counts are those of pairs that differ.

    An adjusted Wald interval (Agresti and Min, Statistics in Medicine, 2005).
    """
    one, other, total = first_only + 0.5, second_only + 0.5, pairs + 2
    centre = (one - other) / total
    half = Z * math.sqrt(one + other - (one - other) ** 2 / total) / total
    value = (first_only - second_only) / pairs
    return Estimate(value=value, low=max(-1.0, min(centre - half, value)), high=min(1.0, max(centre + half, value)))


def mean(sample: Moments) -> Estimate:
    half = Z * sample.standard_error
    return Estimate(value=sample.mean, low=sample.mean - half, high=sample.mean + half)


def ratio_of_means(first: Moments, second: Moments) -> Estimate:
    """First divided by second, positive means of independent samples; by the delta method, for the logarithm."""
    value = first.mean / second.mean
    half = Z * math.hypot(first.standard_error / first.mean, second.standard_error / second.mean)
    return Estimate(value=value, low=value * math.exp(-half), high=value * math.exp(half))
