"""Log-probabilities of completions under a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fer.grpo.batch import RolloutBatch, pad_batch
from fer.grpo.prompts import PromptExample
from fer.grpo.rollout import Completion
from fer.grpo.shared_prompts import BRANCHES, branch_mask
from fer.vlm.scoring import score_tokens
from fer.vlm.validation import to_device


def batch_logprobs(
    model: Any, batch: RolloutBatch, *, temperature: float, masked_token_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (N, T - start) of a batch's tokens from ``start`` on, float32; 0 elsewhere.

    The device is ``masked_token_ids``'.
    """
    inputs = to_device(batch.inputs, masked_token_ids.device)
    mask = batch.mask.to(masked_token_ids.device)
    if batch.shared_tokens is None:
        tokens = torch.nn.functional.pad(mask, (batch.start, 0))
    else:
        tokens = batch.shared_tokens.to(mask.device)
        inputs["attention_mask"] = branch_mask(inputs.pop(BRANCHES))
    scores = score_tokens(model, inputs, tokens, temperature=temperature, masked_token_ids=masked_token_ids)
    logprobs, entropies = (torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, each) for each in scores)
    return logprobs, entropies


@torch.no_grad()
def completion_logprobs(
    model: Any, example: PromptExample, completions: Sequence[list[int]], pad_token_id: int, device: torch.device
) -> list[Tensor]:
    """Log-probabilities (T) of each of ``completions``, at temperature 1 and with no token masked, on the CPU."""
    rows = [Completion("", ids, [0.0] * len(ids), truncated=False) for ids in completions]
    batch = pad_batch([example] * len(rows), rows, torch.zeros(len(rows)), pad_token_id)
    masked = torch.empty(0, dtype=torch.long, device=device)
    model.eval()
    logprobs, _ = batch_logprobs(model, batch, temperature=1.0, masked_token_ids=masked)
    model.train()
    return [row[mask].cpu() for row, mask in zip(logprobs.cpu(), batch.mask, strict=True)]
