from __future__ import annotations

import numpy as np
import pytest
import torch

from fer.data.vqa.questions import Turn
from fer.vlm.chat import IGNORE_INDEX, ChatFormat
from fer.vlm.loss import token_loss
from fer.vlm.model import load_model, load_processor
from fer.vlm.options import ImageOptions, VlmModelOptions
from fer.vlm.scoring import install_head

ROWS = [[Turn("Which?", "fear")], [Turn("Which expression is it?", "<think>wide eyes</think><answer>fear</answer>")]]


@pytest.fixture
def batch(tiny_model: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    chat = ChatFormat(load_processor(tiny_model), ImageOptions(image_size=112), max_tokens=512)
    model = load_model(tiny_model, VlmModelOptions(precision="fp32")).eval()
    images = [np.full((112, 112, 3), 40 * i, np.uint8) for i in range(2)]
    return model, chat.collate([chat.encode(row) for row in ROWS], images)


def test_the_sum_equals_transformers_mean_times_the_tokens(batch: tuple) -> None:  # type: ignore[type-arg]
    model, inputs = batch
    loss_tokens = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum()
    with torch.no_grad():
        theirs = model(**inputs, use_cache=False).loss * loss_tokens
        ours = token_loss(model, inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_a_batch_without_loss_tokens_has_a_loss_of_zero(batch: tuple) -> None:  # type: ignore[type-arg]
    model, inputs = batch
    install_head(model)
    loss = token_loss(model, inputs | {"labels": torch.full_like(inputs["labels"], IGNORE_INDEX)})
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_padding_does_not_change_the_loss(batch: tuple) -> None:  # type: ignore[type-arg]
    model, inputs = batch
    with torch.no_grad():
        batched = token_loss(model, inputs)
        chat = ChatFormat(load_processor(model.config._name_or_path), ImageOptions(image_size=112), max_tokens=512)
        alone = sum(
            token_loss(model, chat.collate([chat.encode(row)], [np.full((112, 112, 3), 40 * i, np.uint8)]))
            for i, row in enumerate(ROWS)
        )
    torch.testing.assert_close(batched, alone, rtol=1e-4, atol=1e-3)
