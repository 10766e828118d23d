"""The SFT loss: summed cross-entropy of the tokens that carry loss.

The trainer divides the sum by the number of loss tokens of the whole optimizer step, over all batches and workers. So
every token has the same weight, however rows are batched. (A mean per batch gives tokens of short responses more.)
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fer.vlm.chat import IGNORE_INDEX
from fer.vlm.shared_images import base_model


def supports_logits_to_keep(model: Any) -> bool:
    """Whether the model can compute the logits of the last positions only."""
    return "logits_to_keep" in inspect.signature(base_model(model).forward).parameters


def token_loss(model: Any, inputs: Mapping[str, Tensor], trim_logits: bool) -> Tensor:
    """Summed cross-entropy (float32 scalar) of a batch's loss tokens.

    ``trim_logits`` skips the logits of positions before the batch's first loss token: with a vocabulary of 150,000
    they are much of a prompt's compute and most of its memory.
    """
    inputs = dict(inputs)
    labels = inputs.pop("labels")[:, 1:]
    positions = (labels != IGNORE_INDEX).any(0).nonzero()
    first = int(positions[0]) if len(positions) else labels.shape[1] - 1
    if trim_logits:
        inputs["logits_to_keep"] = labels.shape[1] - first + 1  # type: ignore[assignment]
        labels = labels[:, first:]
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
