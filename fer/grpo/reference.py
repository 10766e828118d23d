"""The reference model of the KL penalty: the model as it was before reinforcement learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fer.grpo.options import GrpoConfig
from fer.vlm.deepspeed import load_deepspeed_config
from fer.vlm.model import load_model
from fer.vlm.scoring import install_head
from fer.vlm.shared_images import share_images

Reference = Callable[[Callable[[Any], torch.Tensor]], torch.Tensor]
"""Calls a function with the reference model, and returns its result."""


def load_reference(engine: Any, model: str, config: GrpoConfig) -> Reference:
    """The policy with its adapters disabled; without adapters a frozen copy, sharded if the policy is (ZeRO-3)."""
    if config.lora != "off":

        def with_adapters_disabled(compute: Callable[[Any], torch.Tensor]) -> torch.Tensor:
            with torch.no_grad(), engine.module.disable_adapter():
                return compute(engine)

        return with_adapters_disabled

    copy = load_model(model, config).requires_grad_(False).eval()
    share_images(copy)
    install_head(copy)
    if engine.zero_optimization_stage() == 3:
        import deepspeed

        settings = load_deepspeed_config(
            config.deepspeed, batch_size=config.batch_size, bf16=config.precision == "bf16"
        )
        del settings["optimizer"]
        copy, *_ = deepspeed.initialize(model=copy, config=settings)
    else:
        copy.to(engine.device)

    def with_frozen_copy(compute: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            return compute(copy)

    return with_frozen_copy
