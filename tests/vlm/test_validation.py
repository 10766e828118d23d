"""Responses generated for validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fer.data.vqa.questions import Turn
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import PromptBatch, PromptRow
from fer.vlm.model import load_model, load_processor
from fer.vlm.options import ImageOptions, VlmModelOptions
from fer.vlm.validation import generate_samples, stop_token_ids


def test_the_model_s_generation_config_does_not_change_responses(tiny_models: Path) -> None:
    """As in `fer ferbench run`, so that both measure the same."""
    folder = str(tiny_models / "qwen2.5-vl")
    model = load_model(folder, VlmModelOptions(precision="fp32")).eval()
    chat = ChatFormat(load_processor(folder), ImageOptions(image_size=56), max_tokens=512)
    image = np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    text = chat.render_prompt([Turn("Which expression?")])
    row = PromptRow("a.png", "Which expression?", text, image, "happy")
    batch = PromptBatch(chat.collate_prompts([text], [image]), [row])

    def respond() -> str:
        [sample] = generate_samples(model, batch, chat, torch.device("cpu"), 16, synced_gpus=False)
        return sample.response

    plain = respond()
    model.generation_config.repetition_penalty = 3.0  # type: ignore[union-attr]
    assert respond() == plain
    with torch.no_grad():
        ids = model.generate(**batch.inputs, max_new_tokens=16, do_sample=False)  # type: ignore[operator]
    inherited = chat.tokenizer.decode(ids[0, batch.inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert inherited.strip() != plain, "transformers alone would apply it"


def test_a_response_ends_at_each_token_of_the_generation_config(tiny_models: Path) -> None:
    """Gemma's tokenizer ends a text with another token than its chat template a turn."""
    folder = str(tiny_models / "qwen2.5-vl")
    model = load_model(folder, VlmModelOptions(precision="fp32"))
    chat = ChatFormat(load_processor(folder), ImageOptions(image_size=56), max_tokens=512)
    eos = chat.tokenizer.eos_token_id
    for known, expected in ((None, [eos]), (eos, [eos]), ([eos, eos + 1], [eos, eos + 1])):
        model.generation_config.eos_token_id = known  # type: ignore[union-attr]
        assert stop_token_ids(model, chat) == expected
