"""Model folders of the classifier and the dynamics model: weights as safetensors, and a spec as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fer.errors import UserError
from fer.tracking import SPEC, WEIGHTS

S = TypeVar("S", bound=BaseModel)


def save_folder(weights: Mapping[str, Tensor], spec: BaseModel, folder: Path) -> None:
    """Write a state dict to `model.safetensors` and its spec to `model.json`, into a folder that is created."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, folder / WEIGHTS)
    (folder / SPEC).write_text(json.dumps(spec.model_dump(), indent=2))


def load_folder(folder: Path, spec_class: type[S], device: str | torch.device) -> tuple[dict[str, Tensor], S]:
    """Weights on ``device``, and the spec of a model folder.

    Raises UserError if a file is missing, or if the spec is that of another kind of model or version.
    """
    try:
        spec = spec_class.model_validate_json((folder / SPEC).read_text())
        return load_file(folder / WEIGHTS, device=str(device)), spec
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a model folder: no {Path(error.filename or WEIGHTS).name} in it") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{folder / SPEC} is not a {spec_class.__name__}: {field}: {first['msg']}") from None
