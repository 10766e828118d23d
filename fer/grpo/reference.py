"""The reference that the policy is kept near to: the model as it was before reinforcement learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fer.grpo.options import GrpoConfig
from fer.vlm.deepspeed import load_deepspeed_config
from fer.vlm.model import load_model

Reference = Callable[[Callable[[Any], torch.Tensor]], torch.Tensor]
"""Computes something of a model with the reference as that model."""


def open_reference(engine: Any, model: str, config: GrpoConfig) -> Reference:
    """The policy's own model less its adapters; without adapters a frozen copy, cut up where the policy is (ZeRO-3)."""
    if config.lora != "off":

        def bare(compute: Callable[[Any], torch.Tensor]) -> torch.Tensor:
            with torch.no_grad(), engine.module.disable_adapter():
                return compute(engine)

        return bare

    copy = load_model(model, config).requires_grad_(False).eval()
    if engine.zero_optimization_stage() == 3:
        import deepspeed

        settings = load_deepspeed_config(
            config.deepspeed, batch_size=config.batch_size, bf16=config.precision == "bf16"
        )
        del settings["optimizer"]
        copy, *_ = deepspeed.initialize(model=copy, config=settings)
    else:
        copy.to(engine.device)

    def frozen(compute: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            return compute(copy)

    return frozen
