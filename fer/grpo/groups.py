"""Rollout groups: the completions of a prompt with their scores, and the rows of an optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fer.grpo.loss import group_advantages, has_signal
from fer.grpo.prompts import PromptExample
from fer.grpo.rewards import RewardInput, RewardScore, RewardScorer
from fer.grpo.rollout import Completion, RolloutOutput


@dataclass(frozen=True)
class RolloutGroup:
    """A prompt, all its completions, and the score of each."""

    example: PromptExample
    output: RolloutOutput
    scores: list[RewardScore]

    @property
    def completions(self) -> list[Completion]:
        return self.output.completions

    @property
    def rewards(self) -> list[float]:
        return [score.total for score in self.scores]

    @property
    def has_signal(self) -> bool:
        """Whether its rewards are not all equal."""
        return bool(has_signal(torch.tensor([self.rewards], dtype=torch.float64))[0])


@dataclass(frozen=True)
class Row:
    """A completion to train on."""

    example: PromptExample
    completion: Completion
    advantage: float

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and completion."""
        return self.example.inputs["input_ids"].shape[1] + len(self.completion.token_ids)


def score_group(example: PromptExample, output: RolloutOutput, scorer: RewardScorer, max_tokens: int) -> RolloutGroup:
    """Score all completions of a prompt."""
    scores = [
        scorer(RewardInput(each.text, example.answer, len(each.token_ids), max_tokens)) for each in output.completions
    ]
    return RolloutGroup(example, output, scores)


def make_rows(groups: Sequence[RolloutGroup], scale_rewards: bool) -> list[Row]:
    """The completions of the groups with their advantages."""
    advantages = group_advantages(torch.tensor([group.rewards for group in groups]), scale_rewards)
    return [
        Row(group.example, completion, advantage.item())
        for group, row in zip(groups, advantages, strict=True)
        for completion, advantage in zip(group.completions, row, strict=True)
    ]
