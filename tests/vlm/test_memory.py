"""The memory estimate against measured bytes: of DeepSpeed's engine, and of what autograd keeps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn
from transformers import get_scheduler

from fer.training.worker import Worker
from fer.vlm.deepspeed import init_engine, load_deepspeed_config
from fer.vlm.memory import LAYER_MLPS, LAYER_WIDTHS, estimate_training_memory, needs_checkpointing
from fer.vlm.model import load_config, load_model, prepare_for_training, set_trainable
from fer.vlm.options import SftConfig

PARTS = ["vision", "projector", "language"]


def nbytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.slow
@pytest.mark.parametrize("deepspeed", ["zero2", "zero3"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_weights_gradients_and_optimizer_are_exact(
    tiny_models: Path, process_group: None, monkeypatch: pytest.MonkeyPatch, deepspeed: str, precision: str
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    folder = str(tiny_models / "qwen2.5-vl")
    options = SftConfig(data="x", precision=precision, deepspeed=deepspeed, train=PARTS)  # type: ignore[arg-type]
    model = prepare_for_training(set_trainable(load_model(folder, options), options, options), False)
    config = load_deepspeed_config(deepspeed, lr=1e-3, bf16=precision == "bf16")

    def schedule(optimizer: torch.optim.Optimizer) -> Any:
        return get_scheduler("constant_with_warmup", optimizer, 0, 2)

    engine = init_engine(model, config, schedule, torch.device("cpu"))
    ids = torch.randint(0, 500, (2, 16))
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    zero = engine.optimizer
    gradients = nbytes(each for group in zero.averaged_gradients.values() for each in group)
    engine.step()
    master = zero.single_partition_of_fp32_groups if deepspeed == "zero2" else zero.fp32_partitioned_groups_flat
    moments = [each for state in zero.optimizer.state.values() for each in state.values() if each.numel() > 1]

    estimate = estimate_training_memory(options, folder, tokens=0, loss_tokens=0)
    assert estimate["weights"] == nbytes(engine.module.parameters())
    assert estimate["gradients"] == gradients
    assert estimate["optimizer"] == nbytes([*master, *moments])
    engine.destroy()


@pytest.mark.parametrize(("memory", "needed"), [(100e9, True), (130e9, False)])
def test_activations_are_recomputed_where_they_would_not_fit(
    process_group: None,
    monkeypatch: pytest.MonkeyPatch,
    memory: float,
    needed: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=memory))
    assert needs_checkpointing(100e9, Worker(0, 1, torch.device("cpu"))) is needed
    expected = f"checkpointing is {'on' if needed else 'off'}: about 100.0 GB without it, of {memory / 1e9:.1f}"
    assert expected in capsys.readouterr().out


def test_without_checkpointing_all_layers_keep_their_activations(tiny_models: Path) -> None:
    folder = str(tiny_models / "qwen2.5-vl")
    estimates = {
        choice: estimate_training_memory(SftConfig(data="x", grad_checkpointing=choice), folder, 1000, 10)
        for choice in (None, True, False)
    }
    assert estimates[None] == estimates[True]
    assert estimates[False]["activations"] > 1.5 * estimates[True]["activations"]


def saved_bytes(model: nn.Module, ids: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_activations_are_those_that_autograd_keeps(tiny_models: Path) -> None:
    """The language model with the proportions of Qwen2.5-VL-7B, whose MLP is 5.3 times as wide as the rest."""
    from transformers import AutoModelForMultimodalLM

    config: Any = load_config(str(tiny_models / "qwen2.5-vl"))
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_attention_heads, text.num_key_value_heads = 256, 1344, 8, 2
    text.num_hidden_layers, text.layer_types = 4, ["full_attention"] * 4
    config.vision_config.out_hidden_size = 256
    ids = torch.randint(0, 500, (2, 128))

    def measure(grad_checkpointing: bool) -> int:
        model = AutoModelForMultimodalLM.from_config(config, dtype=torch.bfloat16).eval()  # as it is loaded
        return saved_bytes(prepare_for_training(model, grad_checkpointing).model, ids)

    layer = (LAYER_WIDTHS * 256 + LAYER_MLPS * 1344) * 2
    assert measure(grad_checkpointing=False) == pytest.approx(ids.numel() * 4 * layer, rel=0.1)
    assert measure(grad_checkpointing=True) < ids.numel() * (4 * 256 * 2 + layer)
