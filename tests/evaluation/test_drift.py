"""The population stability index: its properties, and its distribution without drift."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.evaluation.drift import expected_by_chance, measure_drift, population_stability

PAIRS = st.integers(2, 12).flatmap(
    lambda bins: st.tuples(*[st.lists(st.integers(0, 1000), min_size=bins, max_size=bins)] * 2)
)
RANDOM = np.random.default_rng(0)
SHARES = np.array([0.3, 0.25, 0.2, 0.15, 0.1])


def index(sample: list[int], reference: list[int]) -> float:
    return float(population_stability(np.array(sample), np.array(reference)))


@given(PAIRS)
def test_it_is_never_negative_symmetric_and_zero_for_equal_counts(pair: tuple[list[int], list[int]]) -> None:
    sample, reference = pair
    assert index(sample, reference) >= 0
    assert index(sample, reference) == pytest.approx(index(reference, sample))
    assert index(sample, sample) == 0


@given(PAIRS, st.randoms())
def test_the_order_of_the_bins_does_not_matter(pair: tuple[list[int], list[int]], random: object) -> None:
    order = list(range(len(pair[0])))
    random.shuffle(order)  # type: ignore[attr-defined]
    sample, reference = ([counts[place] for place in order] for counts in pair)
    assert index(sample, reference) == pytest.approx(index(*pair))


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_further_a_share_moves_the_larger_it_is(one: float, other: float) -> None:
    near, far = sorted((one, other))
    counts = [[round(1000 * (0.5 + move / 2)), round(1000 * (0.5 - move / 2))] for move in (near, far)]
    assert index(counts[0], [500, 500]) <= index(counts[1], [500, 500])


def test_the_value_is_that_of_the_formula() -> None:
    expected = (0.6 - 0.4) * np.log(0.6 / 0.4) * 2
    assert index([60_000, 40_000], [40_000, 60_000]) == pytest.approx(expected, rel=1e-3)


def test_without_drift_it_is_what_chance_gives() -> None:
    n, m = 500, 3000
    pairs = [(RANDOM.multinomial(n, SHARES), RANDOM.multinomial(m, SHARES)) for _ in range(400)]
    values = [float(population_stability(*pair)) for pair in pairs]
    assert np.mean(values) == pytest.approx(expected_by_chance(len(SHARES), n, m), rel=0.1)
    levels = [measure_drift(*pair).level for pair in pairs[:200]]
    assert levels.count("none") >= 0.9 * len(levels), "about 5% exceed what chance exceeds in 5%"


def test_the_interval_has_the_true_value_nearly_always() -> None:
    shifted = np.array([0.2, 0.25, 0.2, 0.2, 0.15])
    true = float(((shifted - SHARES) * np.log(shifted / SHARES)).sum())
    hits = 0
    for _ in range(200):
        psi = measure_drift(RANDOM.multinomial(800, shifted), RANDOM.multinomial(3000, SHARES)).psi
        hits += psi.low <= true <= psi.high
    assert hits / 200 > 0.88


@pytest.mark.parametrize(("moved", "level"), [(0, "none"), (60, "small"), (160, "moderate"), (320, "large")])
def test_levels(moved: int, level: str) -> None:
    assert measure_drift([500 + moved, 500 - moved], [5000, 5000]).level == level


def test_rare_bins_do_not_look_like_drift() -> None:
    rare = np.array([0.5, 0.4985, 0.001, 0.0005])
    samples = [RANDOM.multinomial(400, rare) for _ in range(100)]
    drifted = sum(measure_drift(sample, RANDOM.multinomial(3000, rare)).level != "none" for sample in samples)
    assert drifted <= 12
