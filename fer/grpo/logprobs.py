"""Log-probabilities of completions under a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fer.grpo.batch import RolloutBatch, pad_batch
from fer.grpo.prompts import PromptExample
from fer.grpo.rollout import Completion
from fer.vlm.validation import to_device


def token_logprobs(
    logits: Tensor, token_ids: Tensor, temperature: float, masked_token_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (T) of sampled ``token_ids`` (T) under ``logits`` (T, vocabulary), both float32.

    ``masked_token_ids`` are never sampled, so the distribution leaves them out.
    """
    scaled = (logits.float() / temperature).index_fill(-1, masked_token_ids, -torch.inf)
    logprobs = -torch.nn.functional.cross_entropy(scaled, token_ids, reduction="none")
    with torch.no_grad():
        entropy = torch.distributions.Categorical(logits=scaled).entropy()
    return logprobs, entropy


def batch_logprobs(
    model: Any, batch: RolloutBatch, *, temperature: float, masked_token_ids: Tensor, trim_logits: bool
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (N, T - start) of a batch's tokens from ``start`` on, float32.

    ``trim_logits``: let the model compute no logits for the tokens before. The device is ``masked_token_ids``'.
    """
    inputs: dict[str, Any] = dict(to_device(batch.inputs, masked_token_ids.device))
    token_ids = inputs["input_ids"][:, batch.start :]
    if trim_logits:
        inputs["logits_to_keep"] = token_ids.shape[1] + 1
    logits = model(**inputs, use_cache=False).logits[:, -token_ids.shape[1] - 1 : -1]
    # Row by row, and recomputed in the backward pass: float32 logits over 150,000 tokens would take most of the memory.
    rows = [
        checkpoint(token_logprobs, row, ids, temperature, masked_token_ids, use_reentrant=False)
        for row, ids in zip(logits, token_ids, strict=True)
    ]
    logprobs, entropies = zip(*rows, strict=True)
    return torch.stack(logprobs), torch.stack(entropies)


@torch.no_grad()
def completion_logprobs(
    model: Any, example: PromptExample, completions: Sequence[list[int]], pad_token_id: int, device: torch.device
) -> list[Tensor]:
    """Log-probabilities (T) of each of ``completions``, at temperature 1 and with no token masked, on the CPU."""
    rows = [Completion("", ids, [0.0] * len(ids), truncated=False) for ids in completions]
    batch = pad_batch([example] * len(rows), rows, torch.zeros(len(rows)), pad_token_id)
    masked = torch.empty(0, dtype=torch.long, device=device)
    model.eval()
    logits = model(**to_device(batch.inputs, device), use_cache=False).logits
    model.train()
    start = example.inputs["input_ids"].shape[1] - 1
    return [
        token_logprobs(row[start : start + len(ids)], torch.tensor(ids, device=device), 1.0, masked)[0].cpu()
        for row, ids in zip(logits, completions, strict=True)
    ]
