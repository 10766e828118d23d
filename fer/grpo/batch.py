"""Experience: questions with their completions, rewarded, and cut into the batches that a step learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fer.grpo.loss import advantages, informative
from fer.grpo.prompts import Question
from fer.grpo.rewards import Completion, Scored, Scorer
from fer.grpo.vllm_engine import Group, Sampled


@dataclass(frozen=True)
class Episode:
    """A question, all its completions, and what each earned."""

    question: Question
    group: Group
    scores: list[Scored]

    @property
    def rewards(self) -> list[float]:
        return [score.total for score in self.scores]

    @property
    def teaches(self) -> bool:
        """Whether its rewards are not all equal."""
        return bool(informative(torch.tensor([self.rewards], dtype=torch.float64))[0])


@dataclass
class Batch:
    """Completions of one forward pass, padded on the right."""

    inputs: dict[str, Tensor]
    """input_ids (N, T), attention_mask, and what the model wants of the images."""
    start: int
    """Place of the first sampled token of any row: nothing before it is needed of the logits."""
    mask: Tensor
    """Bool (N, T - start): which tokens from ``start`` on were sampled, and count."""
    sampled_by: Tensor
    """Log-probabilities (N, T - start) of these tokens by the engine that drew them; 0 elsewhere."""
    advantage: Tensor
    """(N)"""
    old: Tensor | None = None
    """Log-probabilities when the step began; those of the first pass over the batch."""
    reference: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.inputs["attention_mask"].sum())


def reward(question: Question, group: Group, scorer: Scorer, max_tokens: int) -> Episode:
    """Score a group's completions."""
    scores = [
        scorer(Completion(each.text, question.answer, len(each.tokens), max_tokens)) for each in group.completions
    ]
    return Episode(question, group, scores)


def cut(episodes: Sequence[Episode], batch_size: int, scale: bool, pad: int) -> Iterator[Batch]:
    """Batches of the episodes' completions, those of like length together; padding costs time."""
    gains = advantages(torch.tensor([episode.rewards for episode in episodes]), scale)
    rows = [
        (episode.question, sampled, gain.item())
        for episode, group_gains in zip(episodes, gains, strict=True)
        for sampled, gain in zip(episode.group.completions, group_gains, strict=True)
    ]
    rows.sort(key=lambda row: row[0].inputs["input_ids"].shape[1] + len(row[1].tokens), reverse=True)
    for first in range(0, len(rows), batch_size):
        questions, samples, gain = zip(*rows[first : first + batch_size], strict=True)
        yield collate(questions, samples, torch.tensor(gain), pad)


def collate(questions: Sequence[Question], samples: Sequence[Sampled], advantage: Tensor, pad: int) -> Batch:
    """One batch: question i was answered by sample i, with ``advantage`` (N)."""
    prompts = [question.inputs["input_ids"][0] for question in questions]
    said = [torch.tensor(sample.tokens) for sample in samples]
    ids = pad_sequence([torch.cat(pair) for pair in zip(prompts, said, strict=True)], True, pad)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ends = lengths + torch.tensor([len(each) for each in said])
    places = torch.arange(ids.shape[1])
    sampled = (places >= lengths[:, None]) & (places < ends[:, None])
    logps = torch.zeros(ids.shape)
    logps[sampled] = torch.tensor([logp for sample in samples for logp in sample.logps])
    inputs = {"input_ids": ids, "attention_mask": (places < ends[:, None]).long()}
    for name, value in questions[0].inputs.items():
        if name in inputs:
            continue
        values = [question.inputs[name] for question in questions]
        if value.shape == questions[0].inputs["input_ids"].shape:  # one value a token; 0 for the text that follows
            inputs[name] = torch.zeros(ids.shape, dtype=value.dtype)
            for row, each in enumerate(values):
                inputs[name][row, : each.shape[1]] = each[0]
        else:
            inputs[name] = torch.cat(values)
    start = int(lengths.min())
    return Batch(inputs, start, sampled[:, start:], logps[:, start:], advantage)
