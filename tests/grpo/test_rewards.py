"""Rewards: each built-in, their weighted sum, and custom functions that raise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.errors import UserError
from fer.grpo.rewards import RewardInput, RewardScorer, load_reward, overlong_penalty, repetition

GOOD = "<think>The mouth is drawn up.</think>\n<answer>Happiness</answer>"


def completion(text: str, answer: str = "happiness", num_tokens: int = 10, max_tokens: int = 100) -> RewardInput:
    return RewardInput(text, answer, num_tokens, max_tokens)


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
        ("strict", " happiness\n", 1.0),
        ("strict", "It is happiness", 0.0),
        ("strict", "<answer></answer>happiness", 0.0),
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
def test_built_in_rewards(name: str, text: str, expected: float) -> None:
    assert load_reward(name)(completion(text)) == pytest.approx(expected)


def test_the_sum_is_weighted() -> None:
    score = RewardScorer({"accuracy": 2.0, "format": 0.5, "length": 1.0})(completion(GOOD))
    assert score.parts == {"accuracy": 1.0, "format": 1.0, "length": -0.1}
    assert score.total == pytest.approx(2.4)


def broken(completion: RewardInput) -> float:
    raise RuntimeError("a bug")


def not_finite(completion: RewardInput) -> float:
    return float("nan")


def count_words(completion: RewardInput) -> float:
    return float(len(completion.text.split()))


def test_a_custom_reward() -> None:
    assert RewardScorer({f"{__name__}:count_words": 0.5})(completion("one two three")).total == 1.5


@pytest.mark.parametrize("name", ["broken", "not_finite"])
def test_if_a_function_fails_its_completion_gets_no_reward(name: str) -> None:
    score = RewardScorer({"accuracy": 1.0, f"{__name__}:{name}": 1.0})(completion(GOOD))
    assert score.total == 0.0
    assert score.parts["accuracy"] == 1.0
    assert list(score.errors) == [f"{__name__}:{name}"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("speed", "must be one of accuracy, strict"),
        ("nowhere:f", "cannot be imported"),
        (f"{__name__}:GOOD", "not a function"),
    ],
)
def test_an_unknown_reward(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_reward(name)


@pytest.mark.parametrize(("num_tokens", "expected"), [(10, 0.0), (80, 0.0), (90, -0.5), (100, -1.0), (120, -1.0)])
def test_overlong_penalty(num_tokens: int, expected: float) -> None:
    assert overlong_penalty(num_tokens, max_tokens=100, buffer=20) == pytest.approx(expected)


def test_the_scorer_adds_the_overlong_penalty() -> None:
    score = RewardScorer({"format": 1.0}, overlong_buffer=20)(completion(GOOD, num_tokens=90))
    assert score.total == pytest.approx(0.5)
    assert score.parts["overlong"] == pytest.approx(-0.5)


@given(st.text(alphabet="ab ", max_size=60))
def test_repetition_stays_in_range(text: str) -> None:
    assert -1 <= repetition(completion(text)) <= 0
