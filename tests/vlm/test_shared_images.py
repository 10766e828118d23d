"""Rows that show the same image: log-probabilities and gradients are those of a batch with an image for each row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fer.grpo.batch import pad_batch
from fer.grpo.logprobs import batch_logprobs
from fer.grpo.rollout import Completion
from fer.vlm.model import load_model, part_of, set_trainable
from fer.vlm.options import LoraOptions, VlmModelOptions
from fer.vlm.shared_images import IMAGE_OF_ROW, share_images
from fer.vlm.tiny import build_tiny
from tests.fixtures.prompts import two_prompts

NAMES = ["qwen2.5-vl", "qwen3-vl", "smolvlm", "gemma3"]
COMPLETIONS = [[300, 301, 302], [310, 311], [320], [330, 331, 332, 333], [340, 341]]
EXAMPLE_OF_ROW = [1, 0, 0, 1, 0]


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny(request.param, tmp_path_factory.mktemp("tiny")))


def run(model: nn.Module, folder: str, share: bool) -> tuple[Tensor, dict[str, Tensor], list[int]]:
    """Log-probabilities of five rows about two images, gradients, and images in each call of the vision encoder."""
    chat, examples = two_prompts(folder)
    completions = [Completion("", ids, [0.0] * len(ids), truncated=False) for ids in COMPLETIONS]
    batch = pad_batch(
        [examples[i] for i in EXAMPLE_OF_ROW], completions, torch.ones(len(completions)), chat.pad_token_id, share
    )
    one_image = len(examples[0].inputs["pixel_values"])
    assert len(batch.inputs["pixel_values"]) == (2 if share else 5) * one_image
    assert (IMAGE_OF_ROW in batch.inputs) == share
    vision = next(m for name, m in model.named_modules() if name.endswith(("visual", "vision_tower", "vision_model")))
    calls: list[int] = []

    def count(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        calls.append(len(args[0] if args else kwargs["pixel_values"]) // one_image)

    handle = vision.register_forward_pre_hook(count, with_kwargs=True)
    model.zero_grad()
    masked = torch.empty(0, dtype=torch.long)
    logprobs, _ = batch_logprobs(model, batch, temperature=1.0, masked_token_ids=masked)
    (logprobs[batch.mask] * torch.arange(1.0, int(batch.mask.sum()) + 1)).sum().backward()
    handle.remove()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return logprobs.detach(), gradients, calls


@pytest.mark.parametrize("parts", [["vision", "projector", "language"], ["projector", "language"]])
@pytest.mark.parametrize("lora", ["off", "lora"])
def test_log_probabilities_and_gradients_are_the_same(folder: str, parts: list, lora: str) -> None:  # type: ignore[type-arg]
    options = VlmModelOptions(precision="fp32", train=parts)
    torch.manual_seed(0)
    model = set_trainable(load_model(folder, options), options, LoraOptions(lora=lora, lora_dropout=0.0))  # type: ignore[arg-type]
    expected, gradients, calls = run(model, folder, share=False)
    assert calls == [5]
    assert share_images(model)
    shared, shared_gradients, calls = run(model, folder, share=True)
    assert calls == [2]
    torch.testing.assert_close(shared, expected, rtol=1e-4, atol=1e-5)
    assert shared_gradients.keys() == gradients.keys()
    assert any(part_of(name) == "vision" for name in gradients) == ("vision" in parts)
    scale = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(shared_gradients[name], gradient, rtol=1e-3, atol=1e-5 * scale)


def test_gradient_checkpointing(tmp_path: Path) -> None:
    folder = str(build_tiny("qwen3-vl", tmp_path))
    model = load_model(folder, VlmModelOptions(precision="fp32")).train()
    _, expected, _ = run(model, folder, share=False)
    share_images(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    _, gradients, calls = run(model, folder, share=True)
    assert calls == [2]
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-3)


def test_other_architectures_get_an_image_for_each_row() -> None:
    class Other(nn.Module):
        config = type("Config", (), {"model_type": "other"})

    assert not share_images(Other())
