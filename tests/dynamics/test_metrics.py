"""Metrics against values computed by hand and published ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer.dynamics.metrics import (
    METRIC_RANGES,
    compute_metrics,
    evaluate_score,
    intraclass_correlation,
    resampled_metrics,
)


def test_the_published_example_of_the_intraclass_correlation() -> None:
    """Shrout and Fleiss, Psychological Bulletin 86 (1979), table 2: six targets, four judges, ICC(2,1) = .29."""
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert intraclass_correlation(np.array(ratings)) == pytest.approx(0.29, abs=0.005)


def test_metrics_of_a_small_example() -> None:
    true, estimated = np.array([0, 1, 2, 3]), np.array([0.2, 1.4, 2.6, 1.9])
    found = compute_metrics(true, estimated, top=3)
    assert found["mse"] == pytest.approx((0.04 + 0.16 + 0.36 + 1.21) / 4)
    assert found["mae"] == pytest.approx((0.2 + 0.4 + 0.6 + 1.1) / 4)
    assert found["accuracy"] == 0.5  # 2.6 is rounded to 3, 1.9 to 2
    assert found["within_half"] == 0.5
    assert found["within_one"] == 0.75
    assert found["kappa"] == pytest.approx(1 - 2 / 10)  # 2 observed of 10 expected squared steps
    assert found["spearman"] == pytest.approx(0.8)


def test_perfect_estimates() -> None:
    true = np.array([0, 1, 2, 3, 4, 5] * 3)
    metrics = evaluate_score("dynamics", 5, true, true.astype(float), [str(n // 3) for n in range(18)])
    for name in ("pearson", "spearman", "kappa", "icc", "accuracy", "within_half"):
        assert getattr(metrics, name).value == pytest.approx(1)
    assert metrics.mse.value == 0
    assert metrics.videos == 6
    assert np.trace(metrics.confusion) == 18
    assert [level.accuracy for level in metrics.levels] == [1] * 6


def test_constant_estimates_have_no_correlation() -> None:
    found = compute_metrics(np.array([0, 1, 2]), np.full(3, 1.2), top=3)
    assert found["pearson"] == found["spearman"] == found["kappa"] == 0
    assert compute_metrics(np.array([1, 1]), np.array([1.0, 1.0]), top=3)["kappa"] == 0


def test_intervals_are_over_videos() -> None:
    """Repeated frames of a video do not narrow the intervals."""
    rng = np.random.default_rng(0)
    true, estimated = rng.integers(0, 4, 8), rng.uniform(0, 3, 8)
    few = evaluate_score("synkinesis", 3, true, estimated, [str(n) for n in range(8)])
    many = evaluate_score(
        "synkinesis", 3, np.repeat(true, 10), np.repeat(estimated, 10), [str(n // 10) for n in range(80)]
    )
    assert (many.mse.low, many.mse.high) == pytest.approx((few.mse.low, few.mse.high))
    assert few.mse.low < few.mse.value < few.mse.high
    assert few.levels[0].rows == int((true == 0).sum())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_resamples_are_measured_as_repeated_rows(rows: list[tuple[int, int, int]]) -> None:
    true, quarters, weights = np.array(rows).T
    weights[0] += 1  # a resample has rows
    estimated = quarters / 4
    expected = compute_metrics(np.repeat(true, weights), np.repeat(estimated, weights), top=3)
    found = resampled_metrics(true, estimated, np.stack([weights, np.ones_like(weights)]))
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, abs=1e-9), name


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 3)), min_size=2, max_size=30))
@settings(max_examples=60, deadline=None)
def test_metrics_stay_within_their_ranges(rows: list[tuple[int, float]]) -> None:
    true, estimated = np.array(rows).T
    for name, value in compute_metrics(true.astype(int), estimated, top=3).items():
        assert np.isfinite(value), name
        low, high = METRIC_RANGES[name]
        assert low - 1e-6 <= value <= high + 1e-6, name
