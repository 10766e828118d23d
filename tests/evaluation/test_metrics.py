"""Metrics against scikit-learn, torchmetrics and hand-computed cases; intervals against theory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional import concordance_corrcoef, pearson_corrcoef
from torchmetrics.functional.classification import multiclass_calibration_error

from fer.evaluation.bootstrap import with_interval
from fer.evaluation.classification import BINS, ClassificationMetrics, ClassificationSums
from fer.evaluation.metrics import classification_metrics, regression_metrics
from fer.evaluation.regression import RegressionSums

LABELS = ("a", "b", "c", "d")
HEADLINES = ("accuracy", "macro_f1", "weighted_f1", "uar", "top2_accuracy", "ece")


def make(rows: int, seed: int = 0, strength: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    true = random.choice(4, rows, p=(0.5, 0.3, 0.15, 0.05))
    logits = random.normal(size=(rows, 4))
    logits[np.arange(rows), true] += strength
    exponents = np.exp(logits)
    return true, (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def test_values_equal_those_of_scikit_learn() -> None:
    true, probabilities = make(500)
    predicted = probabilities.argmax(axis=1)
    found = classification_metrics(LABELS, true, probabilities)
    assert found.accuracy.value == pytest.approx(sk.accuracy_score(true, predicted))
    assert found.macro_f1.value == pytest.approx(sk.f1_score(true, predicted, average="macro"))
    assert found.weighted_f1.value == pytest.approx(sk.f1_score(true, predicted, average="weighted"))
    assert (
        found.uar.value == found.balanced_accuracy.value == pytest.approx(sk.balanced_accuracy_score(true, predicted))
    )
    assert found.top2_accuracy.value == pytest.approx(sk.top_k_accuracy_score(true, probabilities, k=2))
    assert found.confusion == sk.confusion_matrix(true, predicted).tolist()
    assert found.loss.value == pytest.approx(sk.log_loss(true, probabilities), rel=1e-5)
    precision, recall, f1, support = sk.precision_recall_fscore_support(true, predicted)
    for index, each in enumerate(found.classes):
        assert each.support == support[index]
        assert each.predicted == (predicted == index).sum()
        assert each.precision is not None
        assert each.recall is not None
        assert each.f1 is not None
        values = each.precision.value, each.recall.value, each.f1.value
        assert values == pytest.approx((precision[index], recall[index], f1[index]))


@pytest.mark.parametrize("strength", [0.0, 1.5, 6.0])
def test_the_calibration_error_is_that_of_torchmetrics(strength: float) -> None:
    true, probabilities = make(500, strength=strength)
    arguments = torch.from_numpy(probabilities), torch.from_numpy(true)
    expected = multiclass_calibration_error(*arguments, num_classes=4, n_bins=BINS)
    assert classification_metrics(LABELS, true, probabilities).ece.value == pytest.approx(float(expected), abs=1e-6)


def test_correlations_are_those_of_torchmetrics() -> None:
    true, estimated = np.random.default_rng(0).uniform(-1, 1, (2, 300)) + 0.2
    found = regression_metrics(true, estimated)
    both = torch.from_numpy(estimated), torch.from_numpy(true)
    assert found.ccc.value == pytest.approx(float(concordance_corrcoef(*both)), abs=1e-9)
    assert found.pearson.value == pytest.approx(float(pearson_corrcoef(*both)), abs=1e-9)


@pytest.mark.parametrize("grouped", [False, True])
def test_batches_give_the_same_metrics_as_all_rows_at_once(grouped: bool) -> None:
    true, probabilities = make(700, seed=3)
    groups = [f"video {row // 7}" if row % 2 else None for row in range(700)] if grouped else None
    whole = classification_metrics(LABELS, true, probabilities, groups)
    sums = ClassificationSums(LABELS)
    for start in range(0, 700, 64):
        rows = slice(start, start + 64)
        sums.update(true[rows], probabilities[rows], groups[rows] if groups else None)
    found = sums.compute()
    assert found.confusion == whole.confusion
    for name in HEADLINES:
        both = getattr(found, name), getattr(whole, name)
        assert both[0].value == pytest.approx(both[1].value, abs=1e-12)
        assert (both[0].low, both[0].high) == pytest.approx((both[1].low, both[1].high), abs=1e-9)


def test_memory_does_not_grow_with_rows() -> None:
    sums, values = ClassificationSums(LABELS), RegressionSums()
    true, probabilities = make(1000)

    def add_rows(times: int) -> int:
        for _ in range(times):
            sums.update(true, probabilities, ["a", None] * 500)
            values.update(probabilities[:, 0], probabilities[:, 1])
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    small, large = add_rows(2), add_rows(20)
    tracemalloc.stop()
    assert large - small < 20_000, "20,000 more rows"
    assert sums.rows == values.rows == 22_000


def resample_rows(true: np.ndarray, probabilities: np.ndarray, groups: list[str] | None) -> dict[str, np.ndarray]:
    """Metrics of 2,000 resamples of the rows (or groups) themselves, by their definitions."""
    random = np.random.default_rng(1)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    cell = true * 4 + predicted
    in_two = (np.argsort(-probabilities, axis=1)[:, :2] == true[:, None]).any(axis=1)
    bins, excess = np.minimum((confidence * BINS).astype(int), BINS - 1), confidence - (predicted == true)
    names = np.arange(len(true)) if groups is None else np.unique(groups, return_inverse=True)[1]
    members = np.split(np.argsort(names, kind="stable"), np.cumsum(np.bincount(names))[:-1])
    found: dict[str, list[float]] = {name: [] for name in HEADLINES}
    for _ in range(2000):
        units = random.integers(0, len(members), len(members))
        rows = units if groups is None else np.concatenate([members[unit] for unit in units])
        counts = np.bincount(cell[rows], minlength=16).reshape(4, 4)
        hits, support = counts.diagonal(), counts.sum(axis=1)
        f1 = 2 * hits / (support + counts.sum(axis=0))
        error = np.abs(np.bincount(bins[rows], excess[rows], BINS)).sum() / len(rows)
        accuracy, weighted_f1, uar = hits.sum() / len(rows), f1 @ support / len(rows), (hits / support).mean()
        values = accuracy, f1.mean(), weighted_f1, uar, in_two[rows].mean(), error
        for name, value in zip(HEADLINES, values, strict=True):
            found[name].append(value)
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_are_those_of_resampled_rows(grouped: bool) -> None:
    """On as many rows as FER2013's PrivateTest, ungrouped or of 250 videos; resampling has an error of 3%."""
    true, probabilities = make(3589)
    groups = [f"video {row}" for row in np.sort(np.random.default_rng(2).integers(0, 250, 3589))] if grouped else None
    found = classification_metrics(LABELS, true, probabilities, groups)
    for name, resampled in resample_rows(true, probabilities, groups).items():
        estimate = getattr(found, name)
        expected = with_interval(estimate.value, resampled, 0, 1)
        error = pytest.approx((expected.low, expected.high), abs=0.1 * (expected.high - expected.low))
        assert (estimate.low, estimate.high) == error, name


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_of_valence_are_those_of_resampled_rows(grouped: bool) -> None:
    random = np.random.default_rng(0)
    video = np.repeat(np.arange(250), 8)
    true = np.clip(random.normal(0, 0.4, 2000), -1, 1)
    estimated = np.clip(0.7 * true + 0.2 * random.normal(size=250)[video] + random.normal(0, 0.1, 2000), -1, 1)
    found = regression_metrics(true, estimated, [f"video {name}" for name in video] if grouped else None)
    ccc, rmse = [], []
    for _ in range(2000):
        chosen = random.integers(0, 250, 250)
        rows = (chosen[:, None] * 8 + np.arange(8)).ravel() if grouped else random.integers(0, 2000, 2000)
        x, y = true[rows], estimated[rows]
        ccc.append(2 * np.cov(x, y)[0, 1] / (x.var(ddof=1) + y.var(ddof=1) + (x.mean() - y.mean()) ** 2))
        rmse.append(np.sqrt(np.mean((x - y) ** 2)))
    for estimate, resampled in ((found.ccc, ccc), (found.rmse, rmse)):
        expected = with_interval(estimate.value, np.array(resampled), -1, 2)
        error = pytest.approx((expected.low, expected.high), abs=0.1 * (expected.high - expected.low))
        assert (estimate.low, estimate.high) == error


def test_calibration_error_by_hand() -> None:
    """Ten rows of confidence 0.9, six correct: error 0.3. Ten of confidence 1, all correct: error 0. Mean: 0.15."""
    likely, certain = np.tile([0.9, 0.1], (10, 1)), np.tile([1.0, 0.0], (10, 1))
    true = np.array([0] * 6 + [1] * 4 + [0] * 10)
    found = classification_metrics(("yes", "no"), true, np.concatenate([likely, certain]).astype(np.float32))
    assert found.ece.value == pytest.approx(0.15, abs=1e-6)
    assert [(each.rows, round(each.accuracy, 6)) for each in found.reliability] == [(10, 0.6), (10, 1.0)]
    assert found.top2_accuracy.value == 1


def test_a_class_without_rows_is_left_out_of_averages_but_predicting_it_is_a_mistake() -> None:
    probabilities = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 3]]
    found = classification_metrics(LABELS, np.array([0, 0, 1, 1, 1]), probabilities)
    assert found.accuracy.value == pytest.approx(0.8)
    assert found.uar.value == pytest.approx((1 + 2 / 3) / 2)
    assert found.macro_f1.value == pytest.approx((1 + 0.8) / 2)
    missing = found.classes[3]
    assert (missing.support, missing.predicted, missing.f1, missing.recall) == (0, 1, None, None)


@pytest.mark.parametrize("name", HEADLINES)
@pytest.mark.parametrize("strength", [0.0, 1.5, 6.0])
def test_intervals_contain_the_value_and_stay_in_range(name: str, strength: float) -> None:
    estimate = getattr(classification_metrics(LABELS, *make(300, strength=strength)), name)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "uar"])
def test_intervals_shrink_with_the_root_of_the_rows(name: str) -> None:
    def width(rows: int) -> float:
        estimate = getattr(classification_metrics(LABELS, *make(rows, seed=1)), name)
        return estimate.high - estimate.low

    assert width(400) / width(6400) == pytest.approx(4, rel=0.25)


def test_the_interval_of_accuracy_is_binomial() -> None:
    found = classification_metrics(LABELS, *make(2000)).accuracy
    expected = 2 * 1.96 * np.sqrt(found.value * (1 - found.value) / 2000)
    assert found.high - found.low == pytest.approx(expected, rel=0.1)


def test_the_interval_of_the_loss_is_that_of_a_mean() -> None:
    true, probabilities = make(2000)
    losses = -np.log(probabilities[np.arange(2000), true])
    found = classification_metrics(LABELS, true, probabilities).loss
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * losses.std() / 2000**0.5, rel=0.1)
    groups = [f"subject {row // 5}" for row in range(2000)]
    means = losses.reshape(400, 5).mean(axis=1)
    grouped = classification_metrics(LABELS, true, probabilities, groups).loss
    assert grouped.high - grouped.low == pytest.approx(2 * 1.96 * means.std() / 400**0.5, rel=0.1)


def test_a_certain_mistake_has_a_finite_loss() -> None:
    found = classification_metrics(("yes", "no"), np.array([0, 0]), np.array([[0, 1], [1, 0]], np.float32))
    assert 7 < found.loss.value < 9


def test_the_coverage_of_intervals_is_near_95_percent() -> None:
    true, probabilities = make(20_000, seed=5)
    true, probabilities = (true > 0).astype(int), np.stack([probabilities[:, 0], 1 - probabilities[:, 0]], axis=1)
    population = (probabilities.argmax(axis=1) == true).mean()
    parts = [classification_metrics(("a", "other"), true[k::100], probabilities[k::100]) for k in range(100)]
    assert 0.90 <= np.mean([part.accuracy.low <= population <= part.accuracy.high for part in parts]) <= 0.99


def test_groups_are_resampled_whole() -> None:
    """With each row five times, the interval without groups is too narrow by the square root of five."""
    true, probabilities = (np.repeat(each, 5, axis=0) for each in make(300))
    groups = [f"subject {row // 5}" for row in range(1500)]
    rows = classification_metrics(LABELS, true, probabilities).accuracy
    grouped = classification_metrics(LABELS, true, probabilities, groups)
    assert grouped.groups == 300
    assert (grouped.accuracy.high - grouped.accuracy.low) / (rows.high - rows.low) == pytest.approx(5**0.5, rel=0.15)


def test_rows_without_a_group_are_resampled_individually() -> None:
    true, probabilities = make(200)
    found = classification_metrics(LABELS, true, probabilities, [None] * 200)
    assert found == classification_metrics(LABELS, true, probabilities)
    assert found.groups is None


def test_the_seed_affects_the_intervals_only() -> None:
    true, probabilities = make(200)
    first, again, other = (classification_metrics(LABELS, true, probabilities, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.accuracy.value == other.accuracy.value
    assert first.accuracy != other.accuracy


def test_metrics_round_trip_through_json() -> None:
    probabilities = np.eye(4, dtype=np.float32)[[0, 1]]
    found = classification_metrics(LABELS, np.array([0, 1]), probabilities)
    assert ClassificationMetrics.model_validate_json(found.model_dump_json()) == found


def test_valence_by_hand() -> None:
    random = np.random.default_rng(0)
    true = random.uniform(-1, 1, 400).astype(np.float32)
    estimated = np.clip(0.6 * true + 0.2 + random.normal(0, 0.2, 400), -1, 1).astype(np.float32)
    found = regression_metrics(true, estimated)
    x, y = true.astype(float), estimated.astype(float)
    correlation = np.corrcoef(x, y)[0, 1]
    ccc = 2 * correlation * x.std(ddof=1) * y.std(ddof=1)
    ccc /= x.var(ddof=1) + y.var(ddof=1) + (x.mean() - y.mean()) ** 2
    assert found.pearson.value == pytest.approx(correlation)
    assert found.ccc.value == pytest.approx(ccc)
    assert found.rmse.value == pytest.approx(np.sqrt(np.mean((x - y) ** 2)))
    assert found.sign_agreement.value == pytest.approx(np.mean(np.sign(x) == np.sign(y)))
    for estimate in (found.ccc, found.pearson, found.rmse, found.sign_agreement):
        assert estimate.low < estimate.value < estimate.high


def test_rows_without_valence_are_counted_and_left_out() -> None:
    true = np.array([0.5, np.nan, -0.5, np.nan], np.float32)
    found = regression_metrics(true, np.array([0.5, 1, -0.5, 1], np.float32), groups=["a", "a", "b", "b"])
    assert (found.rows, found.unlabelled) == (2, 2)
    assert found.rmse.value == 0
    assert found.ccc.value == pytest.approx(1)


def test_a_constant_estimate_correlates_with_nothing() -> None:
    found = regression_metrics(np.array([0.1, 0.5, -0.5]), np.zeros(3))
    assert found.ccc.value == found.pearson.value == 0
    assert (found.ccc.low, found.ccc.high) == (0, 0)
