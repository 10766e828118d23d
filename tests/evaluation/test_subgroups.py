"""Metrics by subgroup: a case by hand, groups that are too small, and intervals against the truth."""

from collections.abc import Mapping

import numpy as np
import pytest

from fer.evaluation.metrics import classification_metrics
from fer.evaluation.subgroups import MIN_ROWS, SubgroupSums

Rows = tuple[list[str], np.ndarray, np.ndarray]
LABELS = ("calm", "cross")


def rows_of(confusions: Mapping[str, list[list[int]]]) -> Rows:
    """Values, true classes and probabilities of rows with these confusion matrices by group."""
    values, true, predicted = [], [], []
    for value, confusion in confusions.items():
        for row, column in np.ndindex(2, 2):
            count = confusion[row][column]
            values += [value] * count
            true += [row] * count
            predicted += [column] * count
    return values, np.array(true), np.eye(2, dtype=np.float32)[predicted] * 0.6 + 0.2


def sums_of(rows: Rows, seed: int = 0) -> SubgroupSums:
    sums = SubgroupSums(LABELS, "age", seed)
    sums.update(*rows, [None] * len(rows[0]))
    return sums


def test_the_gaps_by_hand() -> None:
    """Accuracies are 34/40 and 30/40; recalls 0.9, 0.6 and 0.8, 0.9; false positive rates 0.2, 0.1 and 0.1, 0.4."""
    rows = rows_of({"old": [[12, 8], [2, 18]], "young": [[18, 2], [4, 16]]})
    found = sums_of(rows).compute()
    assert found.accuracy is not None
    assert found.odds is not None
    assert found.accuracy.gap.value == pytest.approx(0.1)
    assert (found.accuracy.highest, found.accuracy.lowest) == ("young", "old")
    assert found.odds.gap.value == pytest.approx(0.3)
    assert found.odds.rate == "recall of calm"
    assert (found.odds.highest, found.odds.lowest) == ("young", "old")
    young = [row for row, value in enumerate(rows[0]) if value == "young"]
    alone = classification_metrics(LABELS, rows[1][young], rows[2][young])
    assert found.groups["young"].uar.value == alone.uar.value


def test_the_interval_is_that_of_a_difference() -> None:
    """Of two large groups that are far apart, the largest gap is the same difference in every resample."""
    found = sums_of(rows_of({"a": [[900, 100], [100, 900]], "b": [[700, 300], [300, 700]]})).compute()
    assert found.accuracy is not None
    width = found.accuracy.gap.high - found.accuracy.gap.low
    assert width == pytest.approx(2 * 1.96 * np.sqrt(0.9 * 0.1 / 2000 + 0.7 * 0.3 / 2000), rel=0.1)


def test_small_groups_and_rare_classes_are_shown_but_not_compared() -> None:
    """Without a recall of the rare class, the gaps are 3/4 to 2/3, and false alarms of "cross" are the same."""
    found = sums_of(rows_of({"a": [[30, 10], [5, 2]], "b": [[20, 10], [0, 7]], "c": [[0, 1], [1, 0]]})).compute()
    assert found.groups["c"].accuracy.value == 0
    assert found.accuracy is not None
    assert found.odds is not None
    assert found.accuracy.gap.value == pytest.approx(27 / 37 - 32 / 47)
    assert found.odds.rate in ("recall of calm", "false cross"), "7 rows are too few for a recall of cross"
    assert found.odds.gap.value == pytest.approx(30 / 40 - 20 / 30)
    alone = sums_of(rows_of({"a": [[30, 10], [5, 2]], "c": [[0, MIN_ROWS - 1], [0, 0]]})).compute()
    assert alone.accuracy is alone.odds is None


def test_batches_and_the_order_of_rows_change_nothing() -> None:
    values, true, probabilities = rows_of({"old": [[12, 8], [2, 18]], "young": [[18, 2], [4, 16]]})
    whole = sums_of((values, true, probabilities)).compute()
    sums = SubgroupSums(LABELS, "age")
    for batch in np.array_split(np.random.default_rng(0).permutation(80), 5):
        sums.update([values[row] for row in batch], true[batch], probabilities[batch], [None] * len(batch))
    found = sums.compute()
    assert found.accuracy == whole.accuracy
    assert found.odds == whole.odds


def test_rows_without_a_value_are_counted() -> None:
    sums = SubgroupSums(LABELS, "age")
    sums.update([None, "old"], np.array([0, 1]), np.array([[1, 0], [0, 1]], np.float32), [None, None])
    found = sums.compute()
    assert found.unknown == 1
    assert list(found.groups) == ["old"]
