"""The training half of a checkpoint: optimizer, schedule and position. The model half is a model folder of its own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fer.errors import UserError
from fer.training.options import RunOptions

STATE = "state.json"
OPTIMIZER = "optimizer.pt"


@dataclass
class Position:
    """Where a run stands. Order, augmentation and dropout are functions of it, so it is the random state as well."""

    epoch: int = 0
    """The epoch in progress, from 0; equal to the number of epochs when the run is complete."""
    batch: int = 0
    """Batches of that epoch which each worker has consumed."""
    loss_sum: float = 0.0
    """Sum of the leading worker's losses over those batches."""
    update: int = 0
    """Optimizer steps taken since the start."""
    workers: int = 0
    """Workers that took them: another number deals the rows out differently, and the epoch begins again."""
    best: float | None = None
    """Best validation score so far."""
    stale: int = 0
    """Epochs since the best."""
    stopped: bool = False
    """Over for good: ended, or stopped early."""
    stage: str = ""
    """The stage in progress, in a run of several; the other entries are the stage's own."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry for each finished epoch."""


def save_training(folder: Path, position: Position, **parts: Any) -> None:
    """Write the position, and the ``state_dict`` of each part (optimizer, schedule, ...), into a checkpoint folder."""
    write_position(folder, position)
    torch.save({name: part.state_dict() for name, part in parts.items()}, folder / OPTIMIZER)


def load_training(folder: Path, device: torch.device, **parts: Any) -> Position:
    """Restore the parts from a checkpoint folder; return the position."""
    states = torch.load(folder / OPTIMIZER, map_location=device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(states[name])
    return read_position(folder)


def write_position(folder: Path, position: Position) -> None:
    """The position alone, as JSON."""
    (folder / STATE).write_text(json.dumps(asdict(position), indent=2))


def read_position(folder: Path) -> Position:
    """What `write_position` wrote."""
    return Position(**json.loads((folder / STATE).read_text()))


def check_resume(options: RunOptions) -> None:
    """Raise UserError if ``--resume`` names no checkpoint, or one that is cut up for another number of workers."""
    if not options.resume:
        return
    try:
        workers = read_position(Path(options.resume)).workers
    except OSError:
        raise UserError(f"--resume {options.resume} holds no checkpoint ({STATE})") from None
    if workers != options.workers:
        raise UserError(
            f"--resume {options.resume} is cut up for {workers} workers: continue it with --workers {workers}, or "
            "start a new run from its weights with --model"
        )
