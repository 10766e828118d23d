"""The folder of each stage, `<run>/stages/<stage>/`: a model folder with its best weights, and its history.

The spec is written last, so a folder that has one belongs to a finished stage. `initial` holds the weights that the
first stage starts from. All workers read these folders, wherever the run is stored.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import fsspec
import torch
from torch import Tensor

from fer.dynamics.blendshapes import load_blendshapes
from fer.dynamics.model import DynamicsModel, DynamicsSpec, save_model
from fer.dynamics.options import STAGES, DynamicsConfig, StageName
from fer.models.options import WEIGHTS_FILE
from fer.registry import SPEC, WEIGHTS

INITIAL = "initial"
HISTORY = "history.json"

StageHistory = list[dict[str, float]]
"""The metrics of each epoch of a stage."""


def save_initial_weights(root: str, config: DynamicsConfig) -> None:
    """Write the weights that the run starts from, unless they exist. Raises UserError if they can't be loaded."""
    if _is_complete(root, INITIAL):
        return
    torch.manual_seed(config.seed)
    model = DynamicsModel(config, config.pretrained or WEIGHTS_FILE in config.model_kwargs)
    if config.blendshapes:
        model.landmarks.blendshapes.load_state_dict(load_blendshapes(Path(config.blendshapes)))
    save_stage(root, INITIAL, model.state_dict(), DynamicsSpec(options=config), [])


def finished_stages(root: str) -> list[StageName]:
    """The stages that the run has finished, in order."""
    return [name for name in STAGES if _is_complete(root, name)]


def previous_stage(root: str, name: StageName) -> str:
    """The stage whose weights stage ``name`` starts from: the last finished one before it, else `initial`."""
    earlier = [stage for stage in finished_stages(root) if STAGES.index(stage) < STAGES.index(name)]
    return earlier[-1] if earlier else INITIAL


def save_stage(
    root: str, name: str, weights: Mapping[str, Tensor], spec: DynamicsSpec, history: Sequence[dict]
) -> None:
    """Write the folder of a finished stage."""
    filesystem, folder = _folder(root, name)
    filesystem.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        save_model(weights, spec, Path(scratch))
        (Path(scratch) / HISTORY).write_text(json.dumps(list(history), indent=2))
        for file in (WEIGHTS, HISTORY, SPEC):
            filesystem.put_file(f"{scratch}/{file}", f"{folder}/{file}")


@contextmanager
def stage_folder(root: str, name: str) -> Iterator[Path]:
    """A local copy of a stage's folder, deleted at the end of the context."""
    filesystem, folder = _folder(root, name)
    with tempfile.TemporaryDirectory() as scratch:
        for file in (WEIGHTS, HISTORY, SPEC):
            filesystem.get_file(f"{folder}/{file}", f"{scratch}/{file}")
        yield Path(scratch)


def stage_histories(root: str) -> dict[str, StageHistory]:
    """The history of each finished stage."""
    histories: dict[str, StageHistory] = {}
    for name in finished_stages(root):
        with stage_folder(root, name) as folder:
            histories[name] = json.loads((folder / HISTORY).read_text())
    return histories


def _is_complete(root: str, name: str) -> bool:
    filesystem, folder = _folder(root, name)
    return filesystem.exists(f"{folder}/{SPEC}")


def _folder(root: str, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
    filesystem, path = fsspec.url_to_fs(root)
    return filesystem, f"{path}/stages/{name}"
