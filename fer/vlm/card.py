"""The card of a vision-language model: `README.md` of its folder (Mitchell et al., Model Cards, FAT* 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fer.models.card import INTENDED_USE, render_card

MEANINGS = {
    "val_loss": "mean cross-entropy of response tokens on validation rows",
    "val_accuracy": "share of greedy responses that name the right label on validation rows",
    "val_well_formed": "share of them of the form <think>...</think><answer>...</answer> on validation rows",
    "reward/mean": "mean reward of sampled completions of training prompts, at the end of training",
    "reward/accuracy/mean": "share of them that name the right label",
    "reward/format/mean": "share of them of the form <think>...</think><answer>...</answer>",
}
LIMITS = """\
## Limits

- Its reasoning is text that is likely before such an answer. It may be wrong even if the label is right, and does not
  show how the model arrived at the label.
- It responds to any image, with or without a face. It was trained on annotators' labels, with their culture and their
  mistakes. Some ages, genders and skin tones are rare in the data: measure differences on your own.
- It can reproduce what its base model learned elsewhere. The licence and limits of the base model apply too.

More in Ferry's `docs/responsible-use.md`.
"""


def model_card(spec: Mapping[str, Any]) -> str:
    """Markdown for the README.md of a model folder; ``spec`` is the content of its `model.json`."""
    training = spec["training"]
    config, metrics = training["config"], training["metrics"]
    facts = {
        "base model": f"`{spec['base']}`",
        "kind": "an adapter: load it with PEFT, or merge it with `fer merge`" if _is_adapter(spec) else "a full model",
        "trained parts": ", ".join(config.get("train", [])) or "not recorded",
        "training data": f"`{config['data']}`" if config.get("data") else "not recorded",
        "images": _images(config),
        "run": f"`{training['run']}`" if training["run"] else "not recorded",
    }
    return render_card(
        f"{spec['base']}, fine-tuned on facial expressions",
        "A vision-language model that describes the apparent expression of a face in words. Trained with Ferry.",
        facts,
        _metrics(metrics),
        INTENDED_USE,
        LIMITS,
    )


def _is_adapter(spec: Mapping[str, Any]) -> bool:
    return spec["kind"] == "vlm-adapter"


def _images(config: Mapping[str, Any]) -> str:
    if config.get("min_pixels") or config.get("max_pixels"):
        return f"{config.get('min_pixels') or 0} to {config.get('max_pixels') or 'any number of'} pixels"
    return f"{config['image_size']}x{config['image_size']} pixels" if "image_size" in config else "not recorded"


def _metrics(metrics: Mapping[str, float]) -> list[str]:
    known = [f"| {name} | {metrics[name]:.3f} | {meaning} |" for name, meaning in MEANINGS.items() if name in metrics]
    if not known:
        return ["None recorded: evaluate the model before you rely on it."]
    return [
        "On a sample of rows: agreement with their labels, not with what people felt.",
        "",
        "| metric | value | description |",
        "|---|---|---|",
        *known,
    ]
