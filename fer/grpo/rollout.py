"""Prompts and completions, as trainers and engines exchange them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prompt:
    """A prompt for an engine; the text has one placeholder for the image, which vLLM expands."""

    text: str
    image: np.ndarray
    """RGB, uint8 (H, W, 3), as the trainers see it."""


@dataclass(frozen=True)
class Completion:
    """One sampled completion."""

    text: str
    token_ids: list[int]
    """With the end-of-sequence token, unless it is truncated."""
    logprobs: list[float]
    """Log-probability of each token under the distribution that it was sampled from."""
    truncated: bool
    """Whether it reached the maximum length."""


@dataclass(frozen=True)
class RolloutOutput:
    """All completions of one prompt."""

    prompt_token_ids: list[int]
    completions: list[Completion]
    weight_versions: list[list[int]]
    """Version of the weights that sampled each token, for each completion."""


@dataclass
class EngineStats:
    """An engine's work since its last weight update: seconds in generation, and tokens generated."""

    seconds: float = 0.0
    tokens: int = 0


def token_versions(history: Sequence[tuple[int, Mapping[int, int]]], index: int, length: int) -> list[int]:
    """Version of the weights that sampled each of the ``length`` tokens of completion ``index``.

    ``history``: the versions while its request was running, oldest first, each with the tokens that the unfinished
    completions had when these weights came.
    """
    versions: list[int] = []
    for version, tokens in history:
        if not versions:
            versions = [version] * length
        elif index in tokens:  # otherwise it was finished
            versions[tokens[index] :] = [version] * (length - tokens[index])
    return versions
