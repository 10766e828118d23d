"""The loss of supervised fine-tuning: cross-entropy of the tokens that carry loss, summed, not averaged.

The sum is divided by the learned tokens of the whole step, over all its batches and workers: every token then weighs
the same, however the rows were dealt out. (A mean per batch would weigh the tokens of short answers more.)
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fer.vlm.chat import IGNORE_INDEX


def supports_logits_to_keep(model: Any) -> bool:
    """Whether a model can compute the logits of the last positions only."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def token_loss(model: Any, inputs: Mapping[str, Tensor], trim_logits: bool) -> Tensor:
    """Summed cross-entropy (float32 scalar) of the learned tokens of a batch.

    ``trim_logits`` leaves out the logits of positions before the first learned token of the batch: with a vocabulary of
    150,000 they are a good part of a prompt's cost, and most of its memory.
    """
    inputs = dict(inputs)
    labels = inputs.pop("labels")[:, 1:]
    learned = (labels != IGNORE_INDEX).any(0).nonzero()
    first = int(learned[0]) if len(learned) else labels.shape[1] - 1
    if trim_logits:
        inputs["logits_to_keep"] = labels.shape[1] - first + 1  # type: ignore[assignment]
        labels = labels[:, first:]
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
