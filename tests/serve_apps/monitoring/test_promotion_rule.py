"""Rules of `fer promote --if`: what can be written, and what it needs to hold."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.errors import UserError
from serve_apps.monitoring.comparison import Comparison, compare
from serve_apps.monitoring.observations import PairSums, Served, Snapshot, VersionSums
from serve_apps.monitoring.promotion_rule import check_rule, parse_rule

CHAMPION, CHALLENGER = Served("face", "1", "champion"), Served("face", "2", "challenger")


def observed(agreed: int = 990, faces: int = 1000, milliseconds: float = 2.0) -> Comparison:
    """In shadow: 400 labelled faces, of which 350 are right for both, 20 and 10 only for one of both."""
    versions = {
        CHAMPION: VersionSums(batches=500, milliseconds=1000, squares=2500, labelled=400, correct=360),
        CHALLENGER: VersionSums(
            batches=500, milliseconds=500 * milliseconds, squares=625 * milliseconds**2, labelled=400, correct=370
        ),
    }
    pair = PairSums(faces=faces, agreed=agreed, labelled=400, champion_only=10, challenger_only=20)
    return compare(Snapshot(1, versions, {(CHAMPION, CHALLENGER): pair}), CHAMPION, CHALLENGER)


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("agreement >= 0.95", True),
        ("agreement >= 0.99", False),  # 0.99 itself, but not with 95% confidence
        ("accuracy >= 0.85", True),
        ("accuracy > 0.92", False),
        ("accuracy >= champion - 0.01", True),
        ("accuracy >= champion", False),
        ("accuracy >= champion + 0.1", False),
        ("accuracy < champion + 0.1", True),
        ("latency <= 3", True),
        ("latency < 2", False),
        ("latency <= champion", False),
        ("latency <= 1.2 * champion", True),
        ("latency > 0.5*champion", True),
        ("agreement>=0.95 and accuracy >= champion - 0.01 and latency <= 1.2 * champion", True),
        ("agreement >= 0.95 and latency < 1 * champion", False),
    ],
)
def test_a_comparison_holds_for_its_whole_interval(rule: str, holds: bool) -> None:
    assert all(verdict.holds for verdict in check_rule(parse_rule(rule), observed(), min_answers=100)) == holds


def test_too_few_answers_never_hold() -> None:
    (verdict,) = check_rule(parse_rule("agreement >= 0.1"), observed(agreed=90, faces=90), min_answers=100)
    assert not verdict.holds
    assert "90 faces" in verdict.figures
    assert "at least 100" in verdict.figures
    (verdict,) = check_rule(parse_rule("agreement >= 0.1"), observed(agreed=0, faces=0), min_answers=1)
    assert not verdict.holds


@pytest.mark.parametrize(
    "rule",
    [
        "", "agreement", "agreement >= ", "agreement == 1", "agreement >= 0.9 or accuracy >= 1", "loss <= 1",
        "agreement >= champion", "accuracy >= 0.9 * champion", "latency <= champion + 1", "accuracy >= -1",
        "agreement >= 0.9 and", "__import__('os').system('true')", "accuracy >= champion.__class__",
    ],
)  # fmt: skip
def test_anything_else_is_a_user_error_with_the_grammar(rule: str) -> None:
    with pytest.raises(UserError, match="a rule is comparisons joined by"):
        parse_rule(rule)


@given(st.text())
def test_no_text_does_anything_but_parse_or_fail(text: str) -> None:
    with suppress(UserError):
        assert parse_rule(text)
