"""Intervals from counts and sums: they have the true value in about 95% of the samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.evaluation.bootstrap import Estimate
from fer.evaluation.intervals import Moments, difference, mean, paired_difference, proportion, ratio_of_means

ROUNDS = 1000


def coverage(sample: Callable[[np.random.Generator], Estimate], true: float) -> float:
    random = np.random.default_rng(0)
    estimates = [sample(random) for _ in range(ROUNDS)]
    return sum(each.low <= true <= each.high for each in estimates) / ROUNDS


def moments(values: np.ndarray) -> Moments:
    return Moments(len(values), values.sum(), (values**2).sum())


@given(st.integers(0, 500), st.integers(1, 500))
def test_a_proportion_is_in_its_interval(hits: int, misses: int) -> None:
    for one in (proportion(hits, hits + misses), proportion(misses, hits + misses)):
        assert 0 <= one.low <= one.value <= one.high <= 1


@pytest.mark.parametrize("rate", [0.03, 0.5, 0.95])
def test_proportions(rate: float) -> None:
    assert 0.93 <= coverage(lambda random: proportion(int(random.binomial(150, rate)), 150), rate) <= 0.98


def test_differences_of_two_samples() -> None:
    def sample(random: np.random.Generator) -> Estimate:
        return difference(
            proportion(int(random.binomial(150, 0.9)), 150), proportion(int(random.binomial(300, 0.8)), 300)
        )

    assert 0.93 <= coverage(sample, 0.1) <= 0.98


def test_differences_in_one_sample() -> None:
    """8% of the faces are right only for the first, 5% only for the second."""

    def sample(random: np.random.Generator) -> Estimate:
        first, second, _ = random.multinomial(200, [0.08, 0.05, 0.87])
        return paired_difference(int(first), int(second), 200)

    assert 0.93 <= coverage(sample, 0.03) <= 0.98


def test_means_and_their_ratio() -> None:
    def draw(random: np.random.Generator, scale: float) -> Moments:
        return moments(random.lognormal(0, 0.5, 200) * scale)

    true = float(np.exp(0.125))
    assert 0.93 <= coverage(lambda random: mean(draw(random, 1)), true) <= 0.97
    assert 0.93 <= coverage(lambda random: ratio_of_means(draw(random, 3), draw(random, 2)), 1.5) <= 0.97
