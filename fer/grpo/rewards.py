"""Verifiable rewards: small pure functions of a completion, combined by weights.

``accuracy`` and ``format`` are UniFER's (arXiv 2511.00389). The names are in `fer.grpo.options.REWARDS`; a function of
your own is named ``module:function``, takes a `Completion` and returns a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fer.answers import RESPONSE_FORMAT, extract_answer, is_correct
from fer.errors import UserError
from fer.grpo.options import REWARDS

NGRAM = 4
"""Words in the sequences that `repetition` looks for."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the policy said to one question, and what is known about it."""

    text: str
    answer: str
    """The right label."""
    tokens: int
    max_tokens: int
    """The longest completion allowed; one of that length was cut off."""


Reward = Callable[[Completion], float]


def accuracy(completion: Completion) -> float:
    """1 if the tagged answer names the right label, synonyms and other case included; else 0."""
    return float(is_correct(completion.text, completion.answer))


def strict(completion: Completion) -> float:
    """1 if the tagged answer is the right label letter by letter, as UniFER's script compares; else 0."""
    return float(extract_answer(completion.text) == completion.answer.strip())


def form(completion: Completion) -> float:
    """1 if the whole completion is ``<think>...</think><answer>...</answer>``; else 0."""
    return float(RESPONSE_FORMAT.fullmatch(completion.text) is not None)


def length(completion: Completion) -> float:
    """Minus the share of the allowed length that the completion takes, in [-1, 0]."""
    return -completion.tokens / completion.max_tokens


def repetition(completion: Completion) -> float:
    """Minus the share of four-word sequences that came before in the completion, in [-1, 0]."""
    words = completion.text.split()
    grams = list(zip(*(words[i:] for i in range(NGRAM)), strict=False))
    return len(set(grams)) / len(grams) - 1 if grams else 0.0


def find_reward(name: str) -> Reward:
    """The reward function of a name or of ``module:function``. Raises UserError."""
    found = REWARDS.load(name)
    if not callable(found):
        raise UserError(f"--rewards {name}: not a function")
    return found


def overlong(tokens: int, limit: int, buffer: int) -> float:
    """DAPO's soft punishment of length: 0 up to ``limit - buffer`` tokens, then falling linearly to -1 at ``limit``.

    Yu et al., arXiv 2503.14476, equation 13.
    """
    return max(-1.0, min(0.0, (limit - buffer - tokens) / buffer))


@dataclass(frozen=True)
class Scored:
    """A completion's reward, its parts, and the parts whose function raised (they count 0)."""

    total: float
    parts: dict[str, float]
    failed: dict[str, str]


class Scorer:
    """The weighted sum of rewards by name."""

    def __init__(self, weights: Mapping[str, float], overlong_buffer: int = 0) -> None:
        """Raises UserError for a reward that there is not."""
        self.weights, self.overlong_buffer = weights, overlong_buffer
        self.functions = {name: find_reward(name) for name in weights}

    @property
    def parts(self) -> list[str]:
        """Names of the parts of a reward."""
        return [*self.functions, *(["overlong"] if self.overlong_buffer else [])]

    def __call__(self, completion: Completion) -> Scored:
        """A function that raises, or returns no finite number, costs its completion the whole reward."""
        parts: dict[str, float] = {}
        failed: dict[str, str] = {}
        for name, function in self.functions.items():
            try:
                parts[name] = float(function(completion))
                if not math.isfinite(parts[name]):
                    raise ValueError(f"returned {parts[name]}")
            except Exception as error:  # the user's own code may raise anything
                parts[name] = 0.0
                failed[name] = f"{type(error).__name__}: {error}"
        total = 0.0 if failed else sum(self.weights[name] * value for name, value in parts.items())
        if self.overlong_buffer:
            parts["overlong"] = overlong(completion.tokens, completion.max_tokens, self.overlong_buffer)
            total += parts["overlong"]
        return Scored(total, parts, failed)
