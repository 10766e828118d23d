"""Adapters beside an engine's weights: vLLM computes them itself (LoRA), and its base weights stay as they are.

A sync then moves the adapters only. Merging them into the weights is the other way (`merge_adapters`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM has room for."""
ADAPTER_ID = 1


def engine_arguments(rank: int, parts: Iterable[str]) -> dict[str, Any]:
    """Arguments of vLLM's LLM for adapters of this rank on these parts of a model."""
    return {
        "enable_lora": True,
        "max_lora_rank": next(each for each in RANKS if each >= rank),
        "enable_tower_connector_lora": set(parts) != {"language"},
    }


def save_adapters(folder: Path, adapters: Mapping[str, Tensor], rank: int, alpha: int) -> None:
    """Write adapters, named as in the model that was trained, as PEFT does."""
    from safetensors.torch import save_file

    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": []}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    tensors = {f"base_model.model.{name}": weight.contiguous() for name, weight in adapters.items()}
    save_file(tensors, folder / "adapter_model.safetensors")


def lora_request(folder: str = "in vLLM's memory", load_inplace: bool = False) -> Any:
    """What vLLM calls the adapters; ``folder`` is read to load them, and never again."""
    from vllm.lora.request import LoRARequest

    return LoRARequest("policy", ADAPTER_ID, folder, load_inplace=load_inplace)


def load_adapters(worker: Any, folder: Path) -> list[str]:
    """Replace the adapters of an engine's rank by those in a folder; what is wrong with them."""
    worker.add_lora(lora_request(str(folder), load_inplace=True))
    unused = _unused_adapters(worker)
    return [f"vLLM does not compute adapters of {', '.join(unused)}: use --engine-adapters merged"] if unused else []


def _unused_adapters(worker: Any) -> list[str]:
    """Layers whose adapters vLLM has read, but does not compute: those of parts where it has no support for them."""
    manager = worker.model_runner.lora_manager._adapter_manager
    return sorted(manager.get_adapter(ADAPTER_ID).loras.keys() - manager.modules.keys())
