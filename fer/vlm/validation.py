"""Judging a model in mid-training: loss on validation rows, and answers to some of their questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fer.answers import is_correct, well_formed
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import Asked, Batch
from fer.vlm.loss import token_loss


@dataclass(frozen=True)
class Sample:
    """One question and what the model said."""

    path: str
    prompt: str
    label: str
    said: str


@torch.no_grad()
def sum_losses(model: Any, batches: Iterable[Batch], device: torch.device, trim_logits: bool) -> Tensor:
    """(summed loss, learned tokens) of this worker's batches, float64."""
    total = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        loss = token_loss(model, to_device(batch.inputs, device), trim_logits)
        total += torch.tensor([loss.item(), batch.learned], dtype=torch.float64)
    return total


@torch.no_grad()
def answer(
    model: Any, asked: Asked, chat: ChatFormat, device: torch.device, max_new_tokens: int, together: bool
) -> list[Sample]:
    """Greedy answers. ``together``: all workers generate in step, as ZeRO-3 needs."""
    inputs = to_device(asked.inputs, device)
    ids = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        synced_gpus=together,
        pad_token_id=chat.pad_token_id,
        eos_token_id=chat.tokenizer.eos_token_id,
    )
    texts = chat.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [Sample(*row) for row in zip(asked.paths, asked.prompts, asked.answers, map(str.strip, texts), strict=True)]


def tally(samples: Iterable[Sample]) -> Tensor:
    """(answers, right ones, well-formed ones), float64. Without a tag the whole text is the answer."""
    total = torch.zeros(3, dtype=torch.float64)
    for sample in samples:
        tagged = sample.said if "<answer>" in sample.said else f"<answer>{sample.said}</answer>"
        total += torch.tensor([1, is_correct(tagged, sample.label), well_formed(sample.said)])
    return total


def to_device(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
