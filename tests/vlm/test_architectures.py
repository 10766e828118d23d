"""Qwen3-VL and Gemma 3 through the parts where architectures differ; test_chat and test_model have the other two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fer.data.vqa.questions import Turn
from fer.grpo.batch import pad_batch
from fer.grpo.logprobs import batch_logprobs
from fer.grpo.options import GrpoConfig
from fer.grpo.preflight import visual_token_ids
from fer.grpo.prompts import PromptExample
from fer.grpo.rollout import Completion, Prompt
from fer.vlm.chat import ChatFormat
from fer.vlm.loss import token_loss
from fer.vlm.model import count_parameters, load_model, load_processor
from fer.vlm.options import ImageOptions, VlmModelOptions
from fer.vlm.tiny import build_tiny

IMAGE = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
TURNS = [Turn("Which expression?", "<think>It shows.</think><answer>happy</answer>")]


@pytest.fixture(params=["qwen3-vl", "gemma3"], scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(request.param, tmp_path_factory.mktemp("tiny"))


def chat_format(folder: Path, loss_on: str = "assistant") -> ChatFormat:
    return ChatFormat(load_processor(str(folder)), ImageOptions(image_size=112), max_tokens=256, loss_on=loss_on)  # type: ignore[arg-type]


def test_supervised_fine_tuning(folder: Path) -> None:
    model = load_model(str(folder), VlmModelOptions(precision="fp32"))
    counts = count_parameters(model)
    assert min(counts["vision"], counts["projector"], counts["language"]) > 0
    chat = chat_format(folder)
    inputs = chat.collate([chat.encode(TURNS)] * 2, [IMAGE, 255 - IMAGE])
    loss = token_loss(model, inputs)
    loss.backward()
    assert loss > 0
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "visual" in name)


def test_tokens_of_the_image_carry_no_loss_and_are_not_sampled(folder: Path) -> None:
    chat = chat_format(folder, loss_on="all")
    inputs = chat.collate([chat.encode(TURNS)], [IMAGE])
    ids, counts = inputs["input_ids"][0].unique(return_counts=True)
    image_token = int(ids[counts.argmax()])
    assert counts.max() >= 12, "the token that stands for a part of the image"
    assert image_token not in inputs["labels"]
    banned = visual_token_ids(GrpoConfig(data="x", image_size=112), str(folder))
    assert image_token in banned
    assert chat.tokenizer.eos_token_id not in banned


@torch.no_grad()
def test_log_probabilities_do_not_depend_on_the_batch(folder: Path) -> None:
    """Completions of two prompts of different lengths, padded together and alone."""
    model = load_model(str(folder), VlmModelOptions(precision="fp32")).eval()
    chat = chat_format(folder)
    examples = []
    for question, image in (("Which expression?", IMAGE), ("Which expression does this face show now?", 255 - IMAGE)):
        text = chat.render_prompt([Turn(question)])
        inputs = chat.collate_prompts([text], [image])
        examples.append(PromptExample(Prompt(text, image), inputs, "", question, ""))
    completions = [Completion("", ids, [0.0] * len(ids), truncated=False) for ids in ([300, 301, 302], [310, 311])]

    def logprobs(rows: list[int]) -> list[torch.Tensor]:
        batch = pad_batch(
            [examples[i] for i in rows], [completions[i] for i in rows], torch.zeros(len(rows)), chat.pad_token_id
        )
        masked = torch.empty(0, dtype=torch.long)
        values, _ = batch_logprobs(model, batch, temperature=1.0, masked_token_ids=masked)
        return [row[mask] for row, mask in zip(values, batch.mask, strict=True)]

    for together, alone in zip(logprobs([0, 1]), [*logprobs([0]), *logprobs([1])], strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
