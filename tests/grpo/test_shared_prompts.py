"""Completions of one prompt in one sequence: log-probabilities and gradients are those of a row for each completion."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fer.grpo.batch import make_batches
from fer.grpo.groups import Row
from fer.grpo.logprobs import batch_logprobs
from fer.grpo.rollout import Completion
from fer.grpo.shared_prompts import SharedPrompts, branch_mask, find_shared_prompts
from fer.vlm.model import load_model
from fer.vlm.options import VlmModelOptions
from fer.vlm.shared_images import share_images
from fer.vlm.tiny import build_tiny
from tests.fixtures.prompts import two_prompts

COMPLETIONS = [[300, 301, 302], [310, 311], [320], [330, 331, 332, 333], [340, 341], [350]]
EXAMPLE_OF_ROW = [1, 0, 0, 1, 0, 2]


@pytest.fixture(scope="module", params=["qwen2.5-vl", "qwen3-vl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny(request.param, tmp_path_factory.mktemp("tiny")))


def make_rows(folder: str) -> list[Row]:
    """Six rows of two prompts with images of their own; the last came from another trainer."""
    _, examples = two_prompts(folder)
    examples.append(copy.deepcopy(examples[0]))
    return [
        Row(examples[example], Completion("", ids, [0.0] * len(ids), truncated=False), float(number))
        for number, (example, ids) in enumerate(zip(EXAMPLE_OF_ROW, COMPLETIONS, strict=True), 1)
    ]


def run(
    model: nn.Module, rows: list[Row], shared: SharedPrompts | None, batch_size: int
) -> tuple[dict[float, Tensor], dict[str, Tensor], int]:
    """Log-probabilities of each row by its advantage, gradients, and the tokens that the model computed."""
    model.zero_grad()
    found, tokens = {}, 0
    masked = torch.empty(0, dtype=torch.long)
    for batch in make_batches(rows, batch_size, 0, share_images=True, shared_prompts=shared):
        assert (batch.shared_tokens is not None) == (shared is not None)
        tokens += batch.inputs["input_ids"].numel()
        logprobs, _ = batch_logprobs(model, batch, temperature=1.0, masked_token_ids=masked)
        (logprobs.sum(1) * batch.advantages).sum().backward()
        for advantage, values, mask in zip(batch.advantages.tolist(), logprobs.detach(), batch.mask, strict=True):
            found[advantage] = values[mask]
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found, gradients, tokens


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("batch_size", [6, 3])
def test_log_probabilities_and_gradients_are_the_same(folder: str, batch_size: int, checkpointing: bool) -> None:
    model = load_model(folder, VlmModelOptions(precision="fp32")).train()
    share_images(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    shared, rows = find_shared_prompts(model), make_rows(folder)
    assert shared is not None
    expected, gradients, all_tokens = run(model, rows, None, batch_size)
    found, shared_gradients, tokens = run(model, rows, shared, batch_size)
    assert tokens < 0.8 * all_tokens
    assert found.keys() == expected.keys()
    for row, values in expected.items():
        torch.testing.assert_close(found[row], values, rtol=1e-4, atol=1e-5)
    assert shared_gradients.keys() == gradients.keys()
    scale = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(shared_gradients[name], gradient, rtol=1e-3, atol=1e-5 * scale)


def test_long_completions_are_rows(folder: str) -> None:
    shared, rows = find_shared_prompts(load_model(folder, VlmModelOptions())), make_rows(folder)[:1]
    assert shared is not None
    short, long = (
        [Row(rows[0].example, Completion("", [300] * length, [0.0] * length, truncated=True), 1.0)] * 8
        for length in (16, 1024)
    )
    assert shared.saves_work([short])
    assert not shared.saves_work([long])
    assert not shared.saves_work([[row] for row in short]), "batches of one row share nothing"


def test_a_completion_sees_its_prompt_and_itself() -> None:
    mask = branch_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_other_architectures_and_attention_have_rows(tmp_path: Path) -> None:
    assert find_shared_prompts(load_model(str(build_tiny("gemma3", tmp_path)), VlmModelOptions())) is None
    folder = str(build_tiny("qwen2.5-vl", tmp_path))
    assert find_shared_prompts(load_model(folder, VlmModelOptions(attention="eager"))) is None
