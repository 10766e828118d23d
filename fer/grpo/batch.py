"""Training batches: the rows of an optimizer step, padded into the batches of its passes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fer.grpo.groups import Row
from fer.grpo.prompts import PromptExample
from fer.grpo.rollout import Completion
from fer.grpo.shared_prompts import SharedPrompts, group_by_prompt
from fer.vlm.shared_images import IMAGE_OF_ROW


@dataclass
class RolloutBatch:
    """Completions of one forward pass, padded on the right."""

    inputs: dict[str, Tensor]
    """input_ids (N, T), attention_mask (N, T), and the model's image inputs; or those of `SharedPrompts`."""
    start: int
    """Position of the first completion token of any row; logits are needed from there on."""
    mask: Tensor
    """Bool (N, T - start): which tokens from ``start`` on belong to the completion."""
    engine_logprobs: Tensor
    """Log-probabilities (N, T - start) of these tokens under the engine that sampled them; 0 elsewhere."""
    advantages: Tensor
    """(N)"""
    num_tokens: int
    """Tokens of prompts and completions, without padding."""
    shared_tokens: Tensor | None = None
    """With `SharedPrompts`: which tokens of the inputs are the completions', row by row."""
    old_logprobs: Tensor | None = None
    """Log-probabilities at the start of the step, from the first pass over the batch."""
    ref_logprobs: Tensor | None = None


def make_batches(
    rows: Sequence[Row],
    batch_size: int,
    pad_id: int,
    share_images: bool = False,
    shared_prompts: SharedPrompts | None = None,
) -> Iterator[RolloutBatch]:
    """Batches of rows, sorted by length so that little is padded.

    They have ``batch_size`` rows on average, fewer where rows are long: about the same tokens, padding included. Their
    number depends on the number of rows only, so all trainers have equally many, as ZeRO-3 requires.

    With ``shared_prompts``, if that saves work, rows are sorted by prompt, and batches have equally many.
    """
    number = -(-len(rows) // batch_size)
    by_prompt = [rows[i] for group in group_by_prompt(rows) for i in group]
    parts = split(by_prompt, [len(part) for part in torch.arange(len(rows)).tensor_split(number)])
    if shared_prompts is None or not shared_prompts.saves_work(parts):
        shared_prompts = None
        rows = sorted(rows, key=lambda row: row.num_tokens, reverse=True)
        parts = split(rows, balanced_sizes([row.num_tokens for row in rows], number))
    for part in parts:
        batch = pad_batch(
            [row.example for row in part],
            [row.completion for row in part],
            torch.tensor([row.advantage for row in part]),
            pad_id,
            share_images,
        )
        if shared_prompts is not None:
            batch.inputs, batch.shared_tokens = shared_prompts.lay_out(part, pad_id)
        yield batch


def split(rows: Sequence[Row], sizes: Sequence[int]) -> list[Sequence[Row]]:
    """Consecutive parts of the rows, of these sizes."""
    ends = list(accumulate(sizes))
    return [rows[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def balanced_sizes(lengths: Sequence[int], batches: int) -> list[int]:
    """Rows of each of so many consecutive batches, so that the largest has as few tokens as possible.

    ``lengths``: of the rows, descending. A batch's tokens are its number of rows times its longest row.
    """

    def cut(limit: int) -> list[int]:
        """As few batches as possible of at most ``limit`` tokens."""
        sizes, longest = [0], lengths[0]
        for length in lengths:
            if sizes[-1] and (sizes[-1] + 1) * longest > limit:
                sizes.append(0)
            if not sizes[-1]:
                longest = length
            sizes[-1] += 1
        return sizes

    limits = range(lengths[0], lengths[0] * len(lengths) + 1)
    sizes = cut(limits[bisect_left(limits, True, key=lambda limit: len(cut(limit)) <= batches)])
    while len(sizes) < batches:  # one row is as long as all others together: halve the batch with the most rows
        largest = sizes.index(max(sizes))
        sizes[largest : largest + 1] = [-(-sizes[largest] // 2), sizes[largest] // 2]
    return sizes


def pad_batch(
    examples: Sequence[PromptExample],
    completions: Sequence[Completion],
    advantages: Tensor,
    pad_id: int,
    share_images: bool = False,
) -> RolloutBatch:
    """One batch: completion i belongs to example i, with ``advantages`` (N).

    ``share_images``: it has the image of each distinct example once, as in `fer.vlm.shared_images`.
    """
    prompt_ids = [example.inputs["input_ids"][0] for example in examples]
    completion_ids = [torch.tensor(completion.token_ids) for completion in completions]
    ids = pad_sequence([torch.cat(pair) for pair in zip(prompt_ids, completion_ids, strict=True)], True, pad_id)
    starts = torch.tensor([len(each) for each in prompt_ids])
    ends = starts + torch.tensor([len(each) for each in completion_ids])
    positions = torch.arange(ids.shape[1])
    mask = (positions >= starts[:, None]) & (positions < ends[:, None])
    logprobs = torch.zeros(ids.shape)
    logprobs[mask] = torch.tensor([logprob for completion in completions for logprob in completion.logprobs])
    inputs = {"input_ids": ids, "attention_mask": (positions < ends[:, None]).long()}
    distinct = list({id(example): example for example in examples}.values()) if share_images else examples
    for name, value in examples[0].inputs.items():
        if name in inputs:
            continue
        if value.shape == examples[0].inputs["input_ids"].shape:  # one value per token: 0 for the completion's
            inputs[name] = torch.zeros(ids.shape, dtype=value.dtype)
            for row, prompt in enumerate(prompt_ids):
                inputs[name][row, : len(prompt)] = examples[row].inputs[name][0]
        else:
            inputs[name] = torch.cat([example.inputs[name] for example in distinct])
    if share_images:
        numbers = {id(example): number for number, example in enumerate(distinct)}
        inputs[IMAGE_OF_ROW] = torch.tensor([numbers[id(example)] for example in examples])
    start = int(starts.min())
    return RolloutBatch(inputs, start, mask[:, start:], logprobs[:, start:], advantages, int(ends.sum()))
