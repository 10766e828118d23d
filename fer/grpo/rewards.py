"""Verifiable rewards: small pure functions of a completion, combined as a weighted sum.

``strict`` and ``format`` are UniFER's (arXiv 2511.00389). The built-in names are in `fer.grpo.options.REWARDS`. A
custom reward is named ``module:function``; the function takes a `RewardInput` and returns a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fer.answers import RESPONSE_FORMAT, extract_answer, is_correct
from fer.errors import UserError
from fer.grpo.options import REWARDS

NGRAM_WORDS = 4
"""Length of the word sequences that `repetition` counts."""


@dataclass(frozen=True, slots=True)
class RewardInput:
    """What a reward function sees: a completion and the right answer."""

    text: str
    answer: str
    """The right label."""
    num_tokens: int
    max_tokens: int
    """The maximum length; a completion of that length is truncated."""


RewardFunction = Callable[[RewardInput], float]


def accuracy(completion: RewardInput) -> float:
    """1 if the text in <answer> names the right label (case and synonyms don't matter), else 0."""
    return float(is_correct(completion.text, completion.answer))


def strict(completion: RewardInput) -> float:
    """1 if the text in <answer>, or without tags all of it, is exactly the right label, as UniFER compares, else 0."""
    answer = extract_answer(completion.text)
    return float((completion.text.strip() if answer is None else answer) == completion.answer.strip())


def well_formed(completion: RewardInput) -> float:
    """1 if the whole completion is ``<think>...</think><answer>...</answer>``, else 0."""
    return float(RESPONSE_FORMAT.fullmatch(completion.text) is not None)


def length(completion: RewardInput) -> float:
    """Minus the completion's length as a fraction of the maximum, in [-1, 0]."""
    return -completion.num_tokens / completion.max_tokens


def repetition(completion: RewardInput) -> float:
    """Minus the fraction of 4-grams of words that are repeats, in [-1, 0]."""
    words = completion.text.split()
    ngrams = list(zip(*(words[i:] for i in range(NGRAM_WORDS)), strict=False))
    return len(set(ngrams)) / len(ngrams) - 1 if ngrams else 0.0


def load_reward(name: str) -> RewardFunction:
    """The reward function of a name or of ``module:function``. Raises UserError."""
    function = REWARDS.load(name)
    if not callable(function):
        raise UserError(f"--rewards {name}: not a function")
    return function


def overlong_penalty(num_tokens: int, max_tokens: int, buffer: int) -> float:
    """DAPO's soft length penalty: 0 up to ``max_tokens - buffer``, then falling linearly to -1 at ``max_tokens``.

    Yu et al., arXiv 2503.14476, equation 13.
    """
    return max(-1.0, min(0.0, (max_tokens - buffer - num_tokens) / buffer))


@dataclass(frozen=True)
class RewardScore:
    """A completion's reward and its parts; ``errors``: messages of the reward functions that raised (they count 0)."""

    total: float
    parts: dict[str, float]
    errors: dict[str, str]


class RewardScorer:
    """The weighted sum of rewards by name."""

    def __init__(self, weights: Mapping[str, float], overlong_buffer: int = 0) -> None:
        """Raises UserError for an unknown reward."""
        self.weights, self.overlong_buffer = weights, overlong_buffer
        self.functions = {name: load_reward(name) for name in weights}

    @property
    def parts(self) -> list[str]:
        """Names of the reward's parts."""
        return [*self.functions, *(["overlong"] if self.overlong_buffer else [])]

    def __call__(self, completion: RewardInput) -> RewardScore:
        """If a function raises or returns no finite number, the weighted sum counts as 0."""
        parts: dict[str, float] = {}
        errors: dict[str, str] = {}
        for name, function in self.functions.items():
            try:
                parts[name] = float(function(completion))
                if not math.isfinite(parts[name]):
                    raise ValueError(f"returned {parts[name]}")
            except Exception as error:  # a custom function may raise anything
                parts[name] = 0.0
                errors[name] = f"{type(error).__name__}: {error}"
        total = 0.0 if errors else sum(self.weights[name] * value for name, value in parts.items())
        if self.overlong_buffer:
            parts["overlong"] = overlong_penalty(completion.num_tokens, completion.max_tokens, self.overlong_buffer)
            total += parts["overlong"]
        return RewardScore(total, parts, errors)
