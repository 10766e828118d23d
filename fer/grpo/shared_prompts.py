"""Completions of one prompt in one sequence: the prompt is computed once, not once for each of them.

A sequence is a prompt without its last token, and then, for each of its completions, that token and the completion's:
so each token that is scored comes after the one that predicts it. A completion sees the prompt and itself only, and its
positions follow the prompt's. This needs attention with any mask: PyTorch's own kernels, not FlashAttention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fer.vlm.shared_images import base_model

if TYPE_CHECKING:
    from fer.grpo.groups import Row

ARCHITECTURES = frozenset({"qwen2_5_vl", "qwen3_vl"})
"""Model types of transformers that take positions and a mask for each pair of tokens, and whose positions are known."""
BRANCHES = "branches"
"""Input (sequences, T) int64: 0 in the prompt, from 1 on the number of a token's completion, -1 in the padding."""
LINEAR = 6
"""Work of a layer's matrices for a token, in units of its attention to as many tokens as the model is wide."""


class SharedPrompts:
    """The layout for one model."""

    def __init__(self, model: nn.Module) -> None:
        inner: Any = base_model(model)
        self.rope_index = inner.model.get_rope_index
        self.width: int = inner.config.get_text_config().hidden_size

    def saves_work(self, batches: Sequence[Sequence[Row]]) -> bool:
        """Whether sequences are less work than rows: not if completions are long, as they skip over each other."""
        in_rows = in_sequences = 0.0
        for rows in batches:
            in_rows += sum(row.num_tokens * (LINEAR * self.width + row.num_tokens / 2) for row in rows)
            for group in group_by_prompt(rows):
                tokens = rows[group[0]].num_tokens + sum(1 + len(rows[i].completion.token_ids) for i in group[1:])
                in_sequences += tokens * (LINEAR * self.width + tokens)
        return in_sequences < in_rows

    def lay_out(self, rows: Sequence[Row], pad_id: int) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs for rows that are ordered by prompt, and which of their tokens (sequences, T) are the completions'."""
        ids, branches, positions, images = [], [], [], []
        for group in group_by_prompt(rows):
            prompt = rows[group[0]].example.inputs
            completions = [torch.tensor(rows[i].completion.token_ids) for i in group]
            prompt_ids, prompt_positions = prompt["input_ids"][0], self._positions(prompt)
            last, length = prompt_positions[:, -1:], len(prompt_ids) - 1
            parts = [torch.cat([prompt_ids[-1:], each]) for each in completions]
            ids.append(torch.cat([prompt_ids[:-1], *parts]))
            numbers = [torch.full((len(each),), number) for number, each in enumerate(parts, 1)]
            branches.append(torch.cat([torch.zeros(length, dtype=torch.long), *numbers]))
            after = [last + torch.arange(len(each)) for each in parts]
            positions.append(torch.cat([prompt_positions[:, :-1], *after], 1).T)
            images.append({name: value for name, value in prompt.items() if value.shape != prompt["input_ids"].shape})
        inputs = {
            "input_ids": pad_sequence(ids, True, pad_id),
            BRANCHES: pad_sequence(branches, True, -1),
            "position_ids": pad_sequence(positions, True).permute(2, 0, 1),
        }
        inputs |= {name: torch.cat([each[name] for each in images]) for name in images[0]}
        branch = inputs[BRANCHES]
        starts = branch.diff(dim=1, prepend=torch.zeros(len(branch), 1, dtype=torch.long)) != 0
        return inputs, (branch > 0) & ~starts

    def _positions(self, prompt: dict[str, Tensor]) -> Tensor:
        """(3, T)"""
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw")
        return self.rope_index(**{name: prompt[name] for name in names})[0][:, 0]


def find_shared_prompts(model: nn.Module) -> SharedPrompts | None:
    """The layout for a model; None if its architecture or its attention can't have it."""
    config: Any = base_model(model).config
    if config.model_type not in ARCHITECTURES or config._attn_implementation != "sdpa":
        return None
    return SharedPrompts(model)


def group_by_prompt(rows: Sequence[Row]) -> list[list[int]]:
    """The indices of each prompt's rows, prompts in the order of their first rows."""
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(id(row.example), []).append(index)
    return list(groups.values())


def branch_mask(branches: Tensor) -> Tensor:
    """Which tokens (sequences, 1, T, T) see which: those before them in the prompt or in their own completion."""
    keys, queries = branches[:, None, :], branches[:, :, None]
    return (((keys == 0) | (keys == queries)).tril())[:, None]
