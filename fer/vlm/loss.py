"""The SFT loss: summed cross-entropy of the tokens that carry loss.

The trainer divides the sum by the number of loss tokens of the whole optimizer step, over all batches and workers. So
every token has the same weight, however rows are batched. (A mean per batch gives tokens of short responses more.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fer.vlm.chat import IGNORE_INDEX
from fer.vlm.scoring import score_tokens


def token_loss(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Summed cross-entropy (float32 scalar) of a batch's loss tokens, those whose ``labels`` are not IGNORE_INDEX."""
    mask = inputs["labels"] != IGNORE_INDEX
    mask[:, 0] = False
    logprobs, _ = score_tokens(model, {name: value for name, value in inputs.items() if name != "labels"}, mask)
    return -logprobs.sum()
