from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from fer.ferbench.datasets import dataset_labels
from fer.ferbench.metrics import ProtocolMetrics, protocol_metrics

LABELS = dataset_labels("sfew")


def rows(seed: int, count: int = 400, unknown: float = 0.1, errors: float = 0.05) -> tuple[list[str], list[str | None]]:
    """True labels, and predictions of which two in three are correct, some unknown, and some errors."""
    random = np.random.default_rng(seed)
    true = random.choice(LABELS, count).tolist()
    guess = [label if random.random() < 0.6 else str(random.choice(LABELS)) for label in true]
    draws = random.random(count)
    predicted = [
        None if f < errors else "unknown" if f < errors + unknown else g for f, g in zip(draws, guess, strict=True)
    ]
    return true, predicted


def compute(true: list[str], predicted: list[str | None], protocol: str) -> ProtocolMetrics:
    found = protocol_metrics(LABELS, true, predicted, protocol)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_unifer_equals_the_published_script() -> None:
    """The script passes all labels without errors, "unknown" among them, to scikit-learn."""
    true, predicted = rows(0)
    kept = [(t, p) for t, p in zip(true, predicted, strict=True) if p is not None]
    t, p = [t for t, _ in kept], [p for _, p in kept]
    precision, recall, f1, _ = precision_recall_fscore_support(t, p, average="macro", zero_division=0)
    found = compute(true, predicted, "unifer")
    assert (found.rows, found.errors, found.unknowns) == (len(kept), predicted.count(None), p.count("unknown"))
    assert found.accuracy.value == pytest.approx(accuracy_score(t, p), abs=1e-12)
    assert [found.precision.value, found.recall.value, found.f1.value] == pytest.approx([precision, recall, f1])
    # "unknown" is one more class, whose recall is 0.
    assert found.recall.value == pytest.approx(found.uar.value * 7 / 8)


def test_strict_counts_errors_and_unknowns_as_wrong() -> None:
    true, predicted = rows(1)
    found = compute(true, predicted, "strict")
    assert found.rows == len(true)
    assert found.accuracy.value == pytest.approx(np.mean([t == p for t, p in zip(true, predicted, strict=True)]))
    assert found.recall.value == pytest.approx(found.uar.value)
    assert found.unknowns == predicted.count("unknown")
    assert sum(map(sum, found.confusion)) == len(true)
    assert sum(row[-1] for row in found.confusion) == predicted.count("unknown") + predicted.count(None)


def test_without_errors_and_unknowns_the_protocols_agree() -> None:
    true, predicted = rows(2, unknown=0, errors=0)
    one, other = compute(true, predicted, "unifer"), compute(true, predicted, "strict")
    assert one.model_dump(exclude={"protocol"}) == other.model_dump(exclude={"protocol"})


@pytest.mark.parametrize("protocol", ["unifer", "strict"])
def test_intervals_contain_their_values_and_narrow_with_more_rows(protocol: str) -> None:
    few, many = (compute(*rows(3, count), protocol) for count in (200, 3200))
    for name in ("accuracy", "precision", "recall", "f1", "uar"):
        for estimate in (getattr(few, name), getattr(many, name)):
            assert estimate.low <= estimate.value <= estimate.high
        widths = [getattr(each, name).high - getattr(each, name).low for each in (few, many)]
        assert widths[1] < widths[0] / 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, "unknown", None])), min_size=1))
def test_any_predictions_have_metrics(pairs: list[tuple[str, str | None]]) -> None:
    true, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    strict, unifer = (
        protocol_metrics(LABELS, true, predicted, "strict"),
        protocol_metrics(LABELS, true, predicted, "unifer"),
    )
    assert strict is not None
    assert (unifer is None) == all(label is None for label in predicted)
    assert 0 <= strict.accuracy.low <= strict.accuracy.high <= 1
    assert [each.support for each in strict.classes] == [true.count(label) for label in LABELS]
