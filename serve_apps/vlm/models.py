"""The models that the application `vlm` serves: their names, their versions, and where their files are."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer.errors import UserError
from fer.ferbench.models import resolve_kind
from fer.ferbench.options import BenchmarkModel
from fer.registry import model_name, model_version
from fer.tracking import tracking_uri
from fer.vlm.model import load_processor, part_of, resolve_vlm
from serve_apps.vlm.options import VlmServeConfig
from serve_apps.vlm.schema import ModelCard

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM reserves memory for."""


@dataclass(frozen=True)
class ServedModels:
    """The files of a model and its adapters, on this machine."""

    base: str
    """A folder, or a name on the hub."""
    adapters: dict[str, str]
    """The folder of each adapter, by its name."""
    control_tokens: frozenset[str]
    """Texts that the tokenizer turns into control tokens, such as the placeholder of an image."""

    @property
    def lora_rank(self) -> int:
        """Rank to reserve for the largest adapter."""
        largest = max(_read_adapter(folder)["r"] for folder in self.adapters.values())
        return next(rank for rank in LORA_RANKS if rank >= largest)

    @property
    def adapts_vision(self) -> bool:
        """Whether an adapter changes more than the language model."""
        return any(part_of(name) != "language" for folder in self.adapters.values() for name in _weights(folder))


def pin_models(config: VlmServeConfig) -> VlmServeConfig:
    """The config with names and references that mean the same models on every node, now and later.

    An alias becomes the version that it points to, and a path becomes absolute. Raises UserError.
    """
    registered = any(each.startswith(("models:/", "runs:/")) for each in (config.model, *config.adapters.values()))
    return config.model_copy(
        update={
            "name": config.name or model_name(config.model),
            "model": _pin(config.model, config),
            "adapters": {name: _pin(reference, config) for name, reference in config.adapters.items()},
            "tracking_uri": tracking_uri(config) if registered else config.tracking_uri,
        }
    )


def _pin(reference: str, config: VlmServeConfig) -> str:
    if reference.startswith("models:/"):
        return f"models:/{model_name(reference)}/{model_version(reference, config)}"
    return reference if reference.startswith("runs:/") else resolve_vlm(reference, config)


def model_cards(config: VlmServeConfig) -> list[ModelCard]:
    """The model of a pinned config, and its adapters."""
    created = int(time.time())
    assert config.name is not None, "the config is pinned"
    base = ModelCard(id=config.name, created=created, version=_registry_version(config.model))
    return [base] + [
        ModelCard(id=name, created=created, parent=base.id, version=_registry_version(reference))
        for name, reference in config.adapters.items()
    ]


def _registry_version(pinned: str) -> str | None:
    return pinned.rpartition("/")[2] if pinned.startswith("models:/") else None


def fetch_models(config: VlmServeConfig) -> ServedModels:
    """Download what is in the registry, and merge the model if it is itself an adapter. Raises UserError."""
    options = BenchmarkModel(model=config.model, trust_remote_code=config.trust_remote_code)
    kind, base = resolve_kind(options, config)
    if kind != "vllm":
        raise UserError(
            f"--model {config.model} is a classifier, not a vision-language model: serve it with --apps classifier"
        )
    adapters = {name: _check_adapter(name, resolve_vlm(ref, config)) for name, ref in config.adapters.items()}
    tokens = load_processor(base, config.trust_remote_code).tokenizer.added_tokens_decoder.values()
    return ServedModels(base, adapters, frozenset(token.content for token in tokens if token.special))


def _check_adapter(name: str, folder: str) -> str:
    if not (Path(folder) / "adapter_config.json").is_file():
        raise UserError(f"adapter {name}: {folder} is not an adapter: it has no adapter_config.json")
    settings = _read_adapter(folder)
    if settings.get("use_dora"):
        raise UserError(f"adapter {name}: vLLM has no DoRA; serve it as the model, which merges it")
    if settings["r"] > LORA_RANKS[-1]:
        raise UserError(f"adapter {name}: rank {settings['r']} is above {LORA_RANKS[-1]}; serve it as the model")
    return folder


def _read_adapter(folder: str) -> dict[str, Any]:
    return json.loads((Path(folder) / "adapter_config.json").read_text())


def _weights(folder: str) -> list[str]:
    """The names of an adapter's weights. (PEFT shortens the list of modules in its configuration.)"""
    from safetensors import safe_open

    with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as file:
        return list(file.keys())
