"""Rewards: what each part gives, their weighted sum, and functions that raise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.errors import UserError
from fer.grpo.rewards import Completion, Scorer, find_reward, overlong, repetition

GOOD = "<think>The mouth is drawn up.</think>\n<answer>Happiness</answer>"


def said(text: str, answer: str = "happiness", tokens: int = 10, max_tokens: int = 100) -> Completion:
    return Completion(text, answer, tokens, max_tokens)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("accuracy", GOOD, 1.0),
        ("accuracy", "<answer> happy </answer>", 1.0),
        ("accuracy", "<answer>sadness</answer>", 0.0),
        ("accuracy", "happiness", 0.0),
        ("strict", GOOD, 0.0),
        ("strict", "<answer> happiness </answer>", 1.0),
        ("strict", "<answer>happy</answer>", 0.0),
        ("format", GOOD, 1.0),
        ("format", "<think>a</think><answer>b</answer>", 1.0),
        ("format", " " + GOOD, 0.0),
        ("format", GOOD + " and more", 0.0),
        ("format", "<answer>happiness</answer>", 0.0),
        ("format", "<think>a<answer>b</answer></think>", 0.0),
        ("length", GOOD, -0.1),
        ("repetition", "a b c d e f", 0.0),
        ("repetition", "a b c d a b c d", -0.2),
        ("repetition", "short", 0.0),
    ],
)
def test_parts(name: str, text: str, expected: float) -> None:
    assert find_reward(name)(said(text)) == pytest.approx(expected)


def test_the_sum_is_weighted() -> None:
    score = Scorer({"accuracy": 2.0, "format": 0.5, "length": 1.0})(said(GOOD))
    assert score.parts == {"accuracy": 1.0, "format": 1.0, "length": -0.1}
    assert score.total == pytest.approx(2.4)


def broken(completion: Completion) -> float:
    raise RuntimeError("no such thing")


def infinite(completion: Completion) -> float:
    return float("nan")


def words(completion: Completion) -> float:
    return float(len(completion.text.split()))


def test_a_function_of_one_s_own() -> None:
    assert Scorer({f"{__name__}:words": 0.5})(said("one two three")).total == 1.5


@pytest.mark.parametrize("name", ["broken", "infinite"])
def test_a_function_that_fails_costs_its_completion_the_reward(name: str) -> None:
    score = Scorer({"accuracy": 1.0, f"{__name__}:{name}": 1.0})(said(GOOD))
    assert score.total == 0.0
    assert score.parts["accuracy"] == 1.0
    assert list(score.failed) == [f"{__name__}:{name}"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("speed", "must be one of accuracy, strict"),
        ("nowhere:f", "cannot be imported"),
        (f"{__name__}:GOOD", "not a function"),
    ],
)
def test_a_reward_that_there_is_not(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        find_reward(name)


@pytest.mark.parametrize(("tokens", "expected"), [(10, 0.0), (80, 0.0), (90, -0.5), (100, -1.0), (120, -1.0)])
def test_overlong_completions_are_punished_softly(tokens: int, expected: float) -> None:
    assert overlong(tokens, limit=100, buffer=20) == pytest.approx(expected)


def test_the_scorer_adds_the_punishment() -> None:
    score = Scorer({"format": 1.0}, overlong_buffer=20)(said(GOOD, tokens=90))
    assert score.total == pytest.approx(0.5)
    assert score.parts["overlong"] == pytest.approx(-0.5)


@given(st.text(alphabet="ab ", max_size=60))
def test_repetition_stays_in_range(text: str) -> None:
    assert -1 <= repetition(said(text)) <= 0
