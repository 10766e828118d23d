"""Model folders of the classifier and the dynamics model: weights as safetensors, and a spec as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from fer.errors import UserError
from fer.registry import SPEC, WEIGHTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

S = TypeVar("S", bound=BaseModel)


class _Exported(BaseModel):
    """The part of any model's spec that says so."""

    format: str = "torch"


def save_folder(weights: Mapping[str, Tensor], spec: BaseModel, folder: Path) -> None:
    """Write a state dict to `model.safetensors` and its spec to `model.json`, into a folder that is created."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, folder / WEIGHTS)
    (folder / SPEC).write_text(json.dumps(spec.model_dump(), indent=2))


def update_spec(folder: Path, spec_class: type[BaseModel], **changes: object) -> None:
    """Change fields of the spec of a model folder."""
    spec = read_spec(folder, spec_class).model_copy(update=changes)
    (folder / SPEC).write_text(json.dumps(spec.model_dump(), indent=2))


def load_folder(folder: Path, spec_class: type[S], device: str | torch.device) -> tuple[dict[str, Tensor], S]:
    """Weights on ``device``, and the spec of a model folder. Raises UserError as `read_spec` does."""
    from safetensors.torch import load_file

    spec = read_spec(folder, spec_class)
    try:
        return load_file(folder / WEIGHTS, device=str(device)), spec
    except FileNotFoundError:
        raise UserError(f"{folder} is not a model folder: no {WEIGHTS} in it") from None


def read_format(folder: Path) -> str:
    """What runs the model of a folder on a CPU: "torch", or what it was exported for. Raises UserError."""
    return read_spec(folder, _Exported).format


def read_spec(folder: Path, spec_class: type[S]) -> S:
    """The spec of a model folder; no torch is imported.

    Raises UserError if it is missing, or that of another kind of model or version.
    """
    try:
        return spec_class.model_validate_json((folder / SPEC).read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} is not a model folder: no {SPEC} in it") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{folder / SPEC} is not a {spec_class.__name__}: {field}: {first['msg']}") from None
