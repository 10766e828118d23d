"""The models to evaluate, and their kinds: vision-language model, endpoint or classifier."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fer.errors import UserError
from fer.ferbench.options import BenchmarkModel, FerbenchRunConfig
from fer.options import describe_errors, read_yaml
from fer.registry import resolve_model
from fer.storage import is_uri
from fer.tracking import TrackingOptions


def list_models(config: FerbenchRunConfig) -> list[BenchmarkModel]:
    """MODEL, or the models of the file ``--models``, each with its own name. Raises UserError."""
    entries: Any
    if config.models is None:
        entries = [config.model_dump(include=set(BenchmarkModel.model_fields))]
    else:
        document = read_yaml(Path(config.models))
        entries = document.get("models") if isinstance(document, dict) else None
        if not isinstance(entries, list) or not entries:
            raise UserError(f"--models {config.models} has no list `models`")
    models = []
    for number, entry in enumerate(entries, 1):
        try:
            model = BenchmarkModel.model_validate(entry)
        except ValidationError as error:
            raise UserError(f"--models {config.models}, entry {number}: {describe_errors(error)}") from None
        if model.model is None:
            raise UserError(f"--models {config.models}, entry {number}: --model is required")
        models.append(model.model_copy(update={"name": model.name or _default_name(model.model)}))
    if config.protocol == "unifer" and (remote := [model.name for model in models if model.endpoint]):
        raise UserError(
            f"--protocol unifer: {remote[0]} is at an endpoint, which chooses data type and penalties itself"
        )
    names = [model.name for model in models]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two models are named {repeated[0]!r}: give each its own `name`")
    return models


def _default_name(model: str) -> str:
    """The last distinctive part of a path or hub name: "first" for runs/first/model."""
    parts = [part for part in re.split(r"[/\\]", model.rstrip("/")) if part not in ("model", "merged", "")]
    return re.sub(r"[^\w.-]+", "-", parts[-1] if parts else model).strip("-.") or "model"


def resolve_kind(model: BenchmarkModel, tracking: TrackingOptions) -> tuple[str, str]:
    """A model's kind (endpoint, vllm or classifier) and its path or name. Merges adapters. Raises UserError."""
    assert model.model is not None
    if model.endpoint:
        return "endpoint", model.model
    from fer.vlm.merge import resolve_merged
    from fer.vlm.model import find_folder, load_processor

    if is_uri(model.model) and find_folder(model.model) is None:
        return "classifier", str(resolve_model(model.model, tracking))
    path = resolve_merged(model.model, tracking, model.trust_remote_code)
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not Path(path).exists()
    if not on_hub and not (Path(path) / "config.json").is_file():
        return "classifier", str(resolve_model(model.model, tracking).absolute())
    load_processor(path, model.trust_remote_code)  # an unusable model is rejected before an engine starts
    return "vllm", path


def describe_generation(path: str, config: FerbenchRunConfig) -> str:
    """How a vision-language model's responses are generated, in words."""
    from transformers import GenerationConfig

    try:
        penalty = GenerationConfig.from_pretrained(path).repetition_penalty or 1.0
    except OSError:  # it has no generation config
        penalty = 1.0
    text = f"greedy, up to {config.max_new_tokens:,} tokens, "
    if config.protocol == "unifer":
        return text + f"in fp32, with the model's repetition penalty ({penalty:g})"
    unused = f"; the model's penalty of {penalty:g} is for --protocol unifer" if penalty != 1 else ""
    return text + "in the model's data type (fp32 on CPUs without fast bf16), without a repetition penalty" + unused
