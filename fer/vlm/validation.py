"""Validation during training: loss on validation rows, and generated responses to some of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fer.answers import is_correct, well_formed
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import PromptBatch, SftBatch
from fer.vlm.loss import token_loss


@dataclass(frozen=True)
class Sample:
    """One generated response."""

    path: str
    prompt: str
    label: str
    response: str


@torch.no_grad()
def sum_losses(model: Any, batches: Iterable[SftBatch], device: torch.device) -> Tensor:
    """(summed loss, loss tokens) of this worker's batches, float64."""
    total = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        loss = token_loss(model, to_device(batch.inputs, device))
        total += torch.tensor([loss.item(), batch.loss_tokens], dtype=torch.float64)
    return total


@torch.no_grad()
def generate_samples(
    model: Any, batch: PromptBatch, chat: ChatFormat, device: torch.device, max_new_tokens: int, synced_gpus: bool
) -> list[Sample]:
    """Greedy responses to a batch of prompts, generated as by `fer ferbench run`: without the repetition penalty of the
    model's generation config. With ``synced_gpus`` all workers generate in step, as ZeRO-3 requires."""
    inputs = to_device(batch.inputs, device)
    ids = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        repetition_penalty=1.0,
        use_cache=True,
        synced_gpus=synced_gpus,
        pad_token_id=chat.pad_token_id,
        eos_token_id=stop_token_ids(model, chat),
    )
    texts = chat.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [
        Sample(row.path, row.question, row.answer, text.strip()) for row, text in zip(batch.rows, texts, strict=True)
    ]


def stop_token_ids(model: Any, chat: ChatFormat) -> list[int]:
    """The tokenizer's end of text, and those of the model's generation config: Gemma ends its turns with another."""
    known = model.generation_config.eos_token_id
    return sorted({chat.tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None})


def count_samples(samples: Iterable[Sample]) -> Tensor:
    """(samples, correct ones, well-formed ones), float64. Without an answer tag the whole response is the answer."""
    total = torch.zeros(3, dtype=torch.float64)
    for sample in samples:
        tagged = sample.response if "<answer>" in sample.response else f"<answer>{sample.response}</answer>"
        total += torch.tensor([1, is_correct(tagged, sample.label), well_formed(sample.response)])
    return total


def to_device(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
