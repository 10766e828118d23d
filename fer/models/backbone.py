"""timm backbones of the classifier and the dynamics model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm

from fer.errors import UserError
from fer.models.options import BACKBONES, WEIGHTS_FILE, BackboneOptions


def pretrained_config(name: str) -> Any:
    """timm's PretrainedCfg of a model (input statistics, fixed size); None for an unknown model or one without."""
    if not timm.is_model(name) and name in BACKBONES.references():
        BACKBONES.load(name)  # registers it with timm
    return timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None


def build_backbone(options: BackboneOptions, pretrained: bool) -> Any:
    """A timm model without its classifier, with pretrained weights: of the file that is named, else timm's.

    Raises UserError for an unknown name or argument, or missing weights.
    """
    known = pretrained_config(options.backbone)
    if not timm.is_model(options.backbone):
        close = timm.list_models(f"*{options.backbone[:6]}*")[:5]
        raise UserError(
            f"--backbone: timm has no model {options.backbone!r}" + (f"; similar: {', '.join(close)}" if close else "")
        )
    arguments: dict[str, Any] = {"num_classes": 0, "in_chans": options.in_chans, **options.model_kwargs}
    if known is not None and known.fixed_input_size:
        arguments["img_size"] = options.img_size
    file = arguments.pop(WEIGHTS_FILE, None)
    if pretrained and file is not None:
        if not Path(str(file)).is_file():
            raise UserError(f"--model-kwargs: there is no weights file {file}")
        arguments |= {"pretrained_cfg_overlay": {"file": file}} if known is not None else {WEIGHTS_FILE: file}
    try:
        return timm.create_model(options.backbone, pretrained=pretrained, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"--model-kwargs: not accepted by {options.backbone}: {error}") from None
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"no pretrained weights for {options.backbone} could be loaded ({reason}); train from scratch with "
            '--no-pretrained, or name a local file: --model-kwargs \'{"checkpoint_path": "weights.safetensors"}\''
        ) from None
