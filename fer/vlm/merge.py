"""Merging an adapter into its base model, for software that loads plain models only."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from fer.errors import UserError
from fer.registry import MODEL, SPEC
from fer.storage import move_folder
from fer.tracking import TrackingOptions
from fer.vlm.export import write_model_card
from fer.vlm.model import load_model, load_processor, resolve_vlm
from fer.vlm.options import MergeConfig, VlmModelOptions

ADAPTER = "adapter_config.json"


def resolve_merged(name: str, tracking: TrackingOptions, trust_remote_code: bool) -> str:
    """`resolve_vlm`, but an adapter as the merged model, in a folder beside it; a host merges it only once."""
    folder = resolve_vlm(name, tracking)
    adapter = Path(folder)
    if not (adapter / ADAPTER).is_file():
        return folder
    # A run's is beside its model; a download's parent is the cache, which has others.
    out = adapter.with_name("merged" if adapter.name == MODEL else f"{adapter.name}-merged")
    if not out.exists():
        with tempfile.TemporaryDirectory(dir=adapter.parent) as scratch:
            options = MergeConfig(
                adapter=folder,
                out=f"{scratch}/merged",
                trust_remote_code=trust_remote_code,
                storage=tracking.storage,
                tracking_uri=tracking.tracking_uri,
            )
            move_folder(merge_adapter(options), out)
    return str(out)


def merge_adapter(config: MergeConfig) -> Path:
    """Write the merged model, with its processor and card, to ``config.out``. Raises UserError."""
    from peft import PeftModel

    folder = Path(resolve_vlm(config.adapter, config))
    if not (folder / ADAPTER).is_file():
        raise UserError(f"{config.adapter} is not an adapter: it has no {ADAPTER}")
    out = Path(config.out)
    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise UserError(f"--out {config.out} is a file, or not empty: give another folder")
    settings = json.loads((folder / ADAPTER).read_text())
    spec = json.loads((folder / SPEC).read_text()) if (folder / SPEC).is_file() else {}
    training = spec.get("training", {"run": None, "config": {}, "metrics": {}, "versions": None})
    trained_on = settings["base_model_name_or_path"]  # on the machine of the training, a folder
    base = config.base or (trained_on if Path(trained_on).is_dir() else spec.get("base", trained_on))
    precision = training["config"].get("precision", "bf16")
    options = VlmModelOptions(trust_remote_code=config.trust_remote_code, precision=precision)
    model = PeftModel.from_pretrained(load_model(resolve_vlm(base, config), options), str(folder))
    merged = model.merge_and_unload()
    out.mkdir(parents=True, exist_ok=True)
    merged.save_pretrained(out)
    load_processor(str(folder), config.trust_remote_code).save_pretrained(out)
    write_model_card(
        out,
        base=spec.get("base", base),
        config=training["config"],
        run={"name": training["run"], "versions": training["versions"]},
        metrics=training["metrics"],
    )
    return out
