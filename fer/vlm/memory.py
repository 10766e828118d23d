"""Estimated memory of training: `fer grpo --dry-run` prints it, and docs/vlm.md has it for the recipes.

Weights, gradients and optimizer are exact; activations and logits are an estimate (tests/vlm/test_memory.py measures
both). What DeepSpeed and PyTorch need besides is not in it: leave a tenth of the device free. The estimate also decides
whether activations are recomputed (gradient checkpointing).
"""

from __future__ import annotations

from typing import Any

import psutil
import torch
import torch.distributed as dist

from fer.training.worker import Worker
from fer.vlm.deepspeed import load_deepspeed_config
from fer.vlm.model import DTYPES, load_config, set_trainable
from fer.vlm.options import VlmTrainingOptions
from fer.vlm.scoring import LOGITS_AT_ONCE

MASTER_AND_MOMENTS = 12
"""Bytes per trained weight: a master copy and Adam's two moments, all fp32. DeepSpeed keeps the copy for fp32 too."""
STEP = 4
"""Bytes per trained weight during the optimizer step: its gradient in fp32."""
BUCKET_NUMEL = 500_000_000
"""DeepSpeed's default: gradients are reduced in buckets of this size, whatever the model's."""
MAX_GATHERED = 1_000_000_000
"""DeepSpeed's default: ZeRO-3 gathers at most so many weights at a time."""
LOGIT = 12
"""Bytes per logit that is in memory, with its copies and its gradient in fp32."""
USABLE = 0.8
"""Share of a device's memory that training without gradient checkpointing may fill by the estimate, which leaves out
the image encoder's activations."""
LAYER_WIDTHS, LAYER_MLPS = 12, 4
"""Activations of a layer for the backward pass, per token: so many of the hidden and of the MLP's size."""


def estimate_training_memory(
    options: VlmTrainingOptions, model: str, tokens: int, loss_tokens: int
) -> dict[str, float]:
    """Peak bytes on one worker by purpose, and their ``total``.

    ``tokens``: of one forward pass, padding and images included; ``loss_tokens``: those whose logits are computed, some
    at a time. Gradient checkpointing is assumed unless it is off. Weights, gradients and optimizer follow Rajbhandari
    et al. (ZeRO, 2020): ZeRO-2 shards the last two among the workers, ZeRO-3 all three.
    """
    from transformers import AutoModelForMultimodalLM

    settings: Any = load_config(model, options.trust_remote_code)
    with torch.device("meta"):
        network = set_trainable(AutoModelForMultimodalLM.from_config(settings), options, options)
    total = sum(p.numel() for p in network.parameters())
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    width = DTYPES[options.precision].itemsize
    zero = load_deepspeed_config(options.deepspeed)["zero_optimization"]
    stage = zero.get("stage", 0)
    shards = options.workers if stage >= 2 else 1
    on_device = 0 if "offload_optimizer" in zero else 1
    buckets = 2 if zero.get("overlap_comm") and stage < 3 else 1
    text = settings.get_text_config()
    layer = (LAYER_WIDTHS * text.hidden_size + LAYER_MLPS * text.intermediate_size) * width
    checkpoint = text.hidden_size * width
    layers = text.num_hidden_layers
    memory = {
        "weights": total * width / (options.workers if stage == 3 else 1),
        "gradients": trainable * width / shards,
        "optimizer": on_device * trainable * MASTER_AND_MOMENTS / shards,
        "buffers": (buckets * BUCKET_NUMEL + (MAX_GATHERED if stage == 3 else 0)) * width,
    }
    activations = {
        "activations": tokens
        * (layers * layer if options.grad_checkpointing is False else layers * checkpoint + layer),
        "logits": min(loss_tokens * text.vocab_size, LOGITS_AT_ONCE) * LOGIT,
    }
    # Activations are freed before the optimizer step, which needs the gradients in fp32.
    step = on_device * trainable * STEP / shards
    return memory | activations | {"total": sum(memory.values()) + max(step, sum(activations.values()))}


def needs_checkpointing(estimate: float, worker: Worker) -> bool:
    """Whether activations have to be recomputed, if training without that is estimated at so many bytes. Collective."""
    if worker.device.type == "cuda":
        memory = float(torch.cuda.get_device_properties(worker.device).total_memory)
    else:
        memory = psutil.virtual_memory().available / worker.world_size
    least = torch.tensor(memory, dtype=torch.float64, device=worker.device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    needed = estimate > USABLE * least.item()
    if worker.is_rank_zero:
        sizes = f"about {estimate / 1e9:.1f} GB without it, of {least.item() / 1e9:.1f}"
        print(f"gradient checkpointing is {'on' if needed else 'off'}: {sizes}", flush=True)
    return needed
