"""Which models are judged, and what kind each is: vision-language model, endpoint or classifier."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fer.errors import UserError
from fer.ferbench.options import JudgedModel, RunConfig
from fer.options import describe_errors
from fer.tracking import TrackingOptions, resolve_model


def models_of(config: RunConfig) -> list[JudgedModel]:
    """MODEL, or the models of the file ``--models``, each with a name of its own. Raises UserError."""
    entries: Any
    if config.models is None:
        entries = [config.model_dump(include=set(JudgedModel.model_fields))]
    else:
        try:
            document = yaml.safe_load(Path(config.models).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"--models {config.models}: {str(error).splitlines()[0]}") from None
        entries = document.get("models") if isinstance(document, dict) else None
        if not isinstance(entries, list) or not entries:
            raise UserError(f"--models {config.models} has no list `models`")
    models = []
    for number, entry in enumerate(entries, 1):
        try:
            model = JudgedModel.model_validate(entry)
        except ValidationError as error:
            raise UserError(f"--models {config.models}, entry {number}: {describe_errors(error)}") from None
        if model.model is None:
            raise UserError(f"--models {config.models}, entry {number}: --model is required")
        models.append(model.model_copy(update={"name": model.name or _name(model.model)}))
    names = [model.name for model in models]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two models are called {twice[0]!r}: give each a `name` of its own")
    return models


def _name(model: str) -> str:
    """The last part of a path or hub name that says something: "first" for runs/first/model."""
    parts = [part for part in re.split(r"[/\\]", model.rstrip("/")) if part not in ("model", "merged", "")]
    return re.sub(r"[^\w.-]+", "-", parts[-1] if parts else model).strip("-.") or "model"


def locate_model(model: JudgedModel, tracking: TrackingOptions) -> tuple[str, str]:
    """What kind of model it is (endpoint, vllm or classifier), and where. An adapter is merged. Raises UserError."""
    assert model.model is not None
    if model.endpoint:
        return "endpoint", model.model
    from fer.vlm.model import load_processor, resolve_vlm

    place = resolve_vlm(model.model, tracking)
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", place) and not Path(place).exists()
    if (Path(place) / "adapter_config.json").is_file():
        place = str(_merged(Path(place), model))
    elif not on_hub and not (Path(place) / "config.json").is_file():
        return "classifier", str(resolve_model(model.model, tracking).absolute())
    load_processor(place, model.trust_remote_code)  # a model that is no use is refused before an engine starts
    return "vllm", place


def _merged(adapter: Path, model: JudgedModel) -> Path:
    """An adapter and its base as one model, beside the adapter; made once."""
    from fer.vlm.merge import merge_adapter
    from fer.vlm.options import MergeConfig

    out = adapter.parent / "merged"
    if not out.exists():
        with tempfile.TemporaryDirectory(dir=adapter.parent) as scratch:
            options = MergeConfig(
                adapter=str(adapter), out=f"{scratch}/merged", trust_remote_code=model.trust_remote_code
            )
            merge_adapter(options).rename(out)
    return out
