"""Scores of tokens from the layer that never has all logits: those of the plain computation, with their gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fer.data.vqa.questions import Turn
from fer.vlm import scoring
from fer.vlm.chat import IGNORE_INDEX, ChatFormat
from fer.vlm.loss import token_loss
from fer.vlm.model import load_model, load_processor, set_trainable
from fer.vlm.options import ImageOptions, LoraOptions, VlmModelOptions
from fer.vlm.scoring import LanguageHead, Targets, install_head, score_tokens
from fer.vlm.tiny import build_tiny

TURNS = [[Turn("Which?", "fear")], [Turn("Which expression is it?", "<think>wide eyes</think><answer>fear</answer>")]]


@pytest.fixture(scope="module", params=["qwen2.5-vl", "qwen3-vl", "smolvlm", "gemma3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny(request.param, tmp_path_factory.mktemp("tiny")))


def make_inputs(folder: str) -> dict[str, Tensor]:
    chat = ChatFormat(load_processor(folder), ImageOptions(image_size=112), max_tokens=512)
    images = [np.full((112, 112, 3), 40 * i, np.uint8) for i in range(2)]
    return chat.collate([chat.encode(row) for row in TURNS], images)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", ["off", "lora"])
def test_scores_and_gradients_are_those_of_all_logits(folder: str, lora: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = VlmModelOptions(precision="fp32", train=["projector", "language"])
    torch.manual_seed(0)
    model = set_trainable(load_model(folder, options), options, LoraOptions(lora=lora, lora_dropout=0.0))  # type: ignore[arg-type]
    names = [name for name, _ in model.named_parameters()]
    inputs = make_inputs(folder)
    mask = inputs["labels"] != IGNORE_INDEX
    mask[:, 0] = False
    inputs = {name: value for name, value in inputs.items() if name != "labels"}
    masked = torch.tensor([5, 7])
    weights = torch.arange(1.0, int(mask.sum()) + 1)

    def run() -> tuple[Tensor, Tensor]:
        model.zero_grad()
        logprobs, entropies = score_tokens(model, inputs, mask, temperature=0.7, masked_token_ids=masked)
        (logprobs * weights).sum().backward()
        return logprobs.detach(), entropies.detach()

    with torch.no_grad():
        logits = model(**inputs).logits[:, :-1][mask[:, 1:]] / 0.7
    logits[:, masked] = -torch.inf
    ids = inputs["input_ids"][mask]
    expected = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    plain = run()
    plain_gradients = gradients(model)
    assert install_head(model)
    assert [name for name, _ in model.named_parameters()] == names
    whole = run()
    whole_gradients = gradients(model)
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 3 * 1000)  # two or three tokens at a time
    chunked = run()
    for logprobs, entropies in (plain, whole, chunked):
        torch.testing.assert_close(logprobs, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(entropies, torch.distributions.Categorical(logits=logits).entropy())
    scale = max(gradient.abs().max().item() for gradient in plain_gradients.values())
    for other in (whole_gradients, gradients(model)):
        assert other.keys() == plain_gradients.keys()
        for name, gradient in plain_gradients.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-3, atol=1e-5 * scale)
    assert model(**inputs).logits.shape[:2] == mask.shape, "outside of it, the layer computes logits as before"


def test_the_sft_loss_is_transformers(folder: str) -> None:
    model = load_model(folder, VlmModelOptions(precision="fp32"))
    inputs = make_inputs(folder)
    with torch.no_grad():
        theirs = model(**inputs, use_cache=False).loss * (inputs["labels"][:, 1:] != IGNORE_INDEX).sum()
        install_head(model)
        torch.testing.assert_close(token_loss(model, inputs), theirs, rtol=1e-4, atol=1e-3)


def test_logits_of_few_tokens_are_in_memory_at_once() -> None:
    """Of 64 tokens, the logits of two are computed at a time: none of the tensors is as large as all logits."""
    head = LanguageHead(8, 2**25, bias=False, device="meta")
    hidden = torch.empty(64, 8, device="meta", requires_grad=True)
    ids = torch.empty(64, dtype=torch.long, device="meta")
    sizes: list[int] = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            sizes.extend([result.numel()] if isinstance(result, Tensor) else [])
            return result

    with Recorder(), head.scoring(Targets(ids, 1.0, torch.empty(0, dtype=torch.long, device="meta"))):
        head(hidden)[:, 0].sum().backward()
    assert max(size for size in sizes if size != head.weight.numel()) == 2 * 2**25


def test_another_architecture_keeps_its_layer(tmp_path: Path) -> None:
    model = load_model(str(build_tiny("gemma3", tmp_path)), VlmModelOptions(precision="fp32"))
    model.config.model_type = "other"  # type: ignore[union-attr]
    assert not install_head(model)
    assert not isinstance(model.get_output_embeddings(), LanguageHead)  # type: ignore[operator]
