"""Log-probabilities of tokens under logits: masked tokens and temperature."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fer.data.vqa.questions import Turn
from fer.grpo.logprobs import completion_logprobs
from fer.grpo.prompts import PromptExample
from fer.grpo.rollout import Prompt
from fer.vlm.chat import ChatFormat
from fer.vlm.model import load_model, load_processor
from fer.vlm.options import ImageOptions, VlmModelOptions
from fer.vlm.scoring import token_logprobs


def test_masked_tokens_are_left_out_of_the_distribution() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    logprobs, entropy = token_logprobs(logits, torch.tensor([0, 1]), 1.0, torch.tensor([2]))
    assert logprobs[0].item() == pytest.approx(1 - math.log(math.exp(1) + math.exp(2)))
    assert logprobs[1].item() == pytest.approx(-math.log(2))
    assert entropy[1].item() == pytest.approx(math.log(2))


def test_temperature_divides_logits() -> None:
    logits, token_ids, none = torch.randn(4, 9), torch.tensor([1, 2, 3, 4]), torch.empty(0, dtype=torch.long)
    half, _ = token_logprobs(logits, token_ids, 0.5, none)
    doubled, _ = token_logprobs(logits * 2, token_ids, 1.0, none)
    torch.testing.assert_close(half, doubled)


def test_completions_of_different_lengths_are_scored_together(tiny_models: Path) -> None:
    folder = str(tiny_models / "qwen2.5-vl")
    model = load_model(folder, VlmModelOptions(precision="fp32"))
    chat = ChatFormat(load_processor(folder), ImageOptions(image_size=56), max_tokens=512)
    image = np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    text = chat.render_prompt([Turn("Which expression?")])
    example = PromptExample(Prompt(text, image), chat.collate_prompts([text], [image]), "a.png", "?", "happy")
    completions = [list(range(300, 309)), list(range(320, 324))]
    cpu = torch.device("cpu")
    together = completion_logprobs(model, example, completions, chat.pad_token_id, cpu)
    for ids, logprobs in zip(completions, together, strict=True):
        [alone] = completion_logprobs(model, example, [ids], chat.pad_token_id, cpu)
        assert len(logprobs) == len(ids)
        torch.testing.assert_close(logprobs, alone, rtol=0, atol=1e-5)
