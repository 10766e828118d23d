"""What the stages of a run leave: `<run>/stages/<name>/`, a model folder with the stage's best weights and its history.

The spec is written last, so a folder that has one is of a finished stage. `start` holds the weights that stage 1 begins
with. Every worker reads them, wherever the run's folder is.
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
from fer.dynamics.model import DynamicsModel, ScorerSpec, save_model
from fer.dynamics.options import STAGES, DynamicsConfig, StageName
from fer.models.folder import WEIGHTS
from fer.tracking import SPEC

START = "start"
HISTORY = "history.json"

History = list[dict[str, float]]


def start(root: str, config: DynamicsConfig) -> None:
    """Write the weights that the run begins with, unless they are there. Raises UserError where they can't be had."""
    if _exists(root, START):
        return
    torch.manual_seed(config.seed)
    model = DynamicsModel(config, config.pretrained)
    if config.blendshapes:
        model.landmarks.blendshapes.load_state_dict(load_blendshapes(Path(config.blendshapes)))
    store(root, START, model.state_dict(), ScorerSpec(options=config), [])


def finished(root: str) -> list[StageName]:
    """The stages that the run has finished, in their order."""
    return [name for name in STAGES if _exists(root, name)]


def latest_before(root: str, name: StageName) -> str:
    """The stage whose weights the stage ``name`` begins with: the last finished one before it, else `start`."""
    earlier = [done for done in finished(root) if STAGES.index(done) < STAGES.index(name)]
    return earlier[-1] if earlier else START


def store(root: str, name: str, weights: Mapping[str, Tensor], spec: ScorerSpec, history: Sequence[dict]) -> None:
    """Write a finished stage."""
    filesystem, folder = _folder(root, name)
    filesystem.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        save_model(weights, spec, Path(scratch))
        (Path(scratch) / HISTORY).write_text(json.dumps(list(history), indent=2))
        for file in (WEIGHTS, HISTORY, SPEC):
            filesystem.put_file(f"{scratch}/{file}", f"{folder}/{file}")


@contextmanager
def opened(root: str, name: str) -> Iterator[Path]:
    """A stage's files as a local folder, as long as it is open."""
    filesystem, folder = _folder(root, name)
    with tempfile.TemporaryDirectory() as scratch:
        for file in (WEIGHTS, HISTORY, SPEC):
            filesystem.get_file(f"{folder}/{file}", f"{scratch}/{file}")
        yield Path(scratch)


def histories(root: str) -> dict[str, History]:
    """One entry for each epoch of each finished stage."""
    found: dict[str, History] = {}
    for name in finished(root):
        with opened(root, name) as folder:
            found[name] = json.loads((folder / HISTORY).read_text())
    return found


def _exists(root: str, name: str) -> bool:
    filesystem, folder = _folder(root, name)
    return filesystem.exists(f"{folder}/{SPEC}")


def _folder(root: str, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
    filesystem, path = fsspec.url_to_fs(root)
    return filesystem, f"{path}/stages/{name}"
