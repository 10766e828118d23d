"""Checkpoints: trainer state and optimizer. The model beside them is a model folder."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fer.errors import UserError
from fer.storage import open_path
from fer.training.options import CheckpointOptions

if TYPE_CHECKING:
    from upath import UPath

STATE = "trainer_state.json"
OPTIMIZER = "optimizer.pt"
NO_SCORE = -sys.float_info.max
"""Score of a checkpoint within an epoch: it is kept as the latest, never as the best. Ray stores no infinity."""


@dataclass
class TrainerState:
    """Progress of a run.

    Data order, augmentation and dropout are functions of it and of the seed, so no random state is saved.
    """

    epoch: int = 0
    """The current epoch, from 0; equal to the number of epochs when training is complete."""
    batch: int = 0
    """Batches of the current epoch that each worker has consumed."""
    consumed: list[tuple[int, int]] = field(default_factory=list)
    """The rows of these batches, as pairs (workers, rows that each of them consumed): a new pair for every change of
    the number of workers. Of a vision-language model, the pairs before the last change; ``batch`` counts from there."""
    loss_sum: float = 0.0
    """Sum of the losses of these rows, on all workers."""
    global_step: int = 0
    """Optimizer steps since the start, or where the present number of workers would be after as many rows."""
    total_batches: int = 0
    """Batches that each worker has consumed since the start."""
    world_size: int = 0
    """Workers of the run."""
    optimizer: str = ""
    """Class of the optimizer whose moments are beside this, such as AdamW; empty: not known."""
    best_score: float | None = None
    """Best validation score so far."""
    epochs_since_best: int = 0
    finished: bool = False
    """Whether training is over: complete, or stopped early."""
    stage: str = ""
    """The current stage of a run that has several; the other fields are those of the stage."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of each finished epoch."""

    @property
    def rows(self) -> int:
        """Rows of the current epoch that all workers have consumed."""
        return sum(workers * rows for workers, rows in self.consumed)

    def count_batch(self, rows: int) -> None:
        """Each worker has consumed a batch of ``rows`` rows."""
        self.batch += 1
        self.total_batches += 1
        workers, before = self.consumed[-1]
        self.consumed = [*self.consumed[:-1], (workers, before + rows)]

    def start_epoch(self, epoch: int) -> None:
        self.epoch, self.batch, self.loss_sum, self.consumed = epoch, 0, 0.0, [(self.world_size, 0)]

    def change_workers(self, workers: int) -> None:
        """``workers`` workers continue: they divide the rest of the epoch among them."""
        if workers != self.world_size:
            self.consumed = [*((each, rows) for each, rows in self.consumed if rows), (workers, 0)]
            self.world_size = workers


def save_checkpoint(folder: Path, state: TrainerState, optimizer: torch.optim.Optimizer, **parts: Any) -> None:
    """Write the state, and the ``state_dict`` of the optimizer and of each part, into a checkpoint folder."""
    write_state(folder, replace(state, optimizer=type(optimizer).__name__))
    saved = {name: part.state_dict() for name, part in {"optimizer": optimizer, **parts}.items()}
    torch.save(saved, folder / OPTIMIZER)


def load_checkpoint(folder: Path, device: torch.device, optimizer: torch.optim.Optimizer, **parts: Any) -> TrainerState:
    """Restore the optimizer's moments and the parts from a checkpoint folder; return the state.

    Learning rate, weight decay and the like stay those of the optimizer: a run may be resumed with other options. A
    part whose saved state is empty keeps its own: there is no loss scale where the device computes in bfloat16.
    """
    saved = torch.load(folder / OPTIMIZER, map_location=device, weights_only=True)
    hyperparameters = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved["optimizer"]["state"], "param_groups": hyperparameters})
    for name, part in parts.items():
        if saved[name]:
            part.load_state_dict(saved[name])
    return read_state(folder)


def write_state(folder: Path, state: TrainerState) -> None:
    """Write the state alone, as JSON."""
    (folder / STATE).write_text(json.dumps(asdict(state), indent=2))


def read_state(folder: Path | UPath) -> TrainerState:
    """Read the state of a checkpoint folder."""
    return TrainerState(**json.loads((folder / STATE).read_text()))


def check_resume(options: CheckpointOptions) -> TrainerState | None:
    """The state of the checkpoint ``--resume``, if there is one. Raises UserError if it is none."""
    if not options.resume:
        return None
    folder = open_path(options.resume)
    if not (folder / STATE).is_file():
        raise UserError(f"--resume {options.resume} is not a checkpoint: it has no {STATE}")
    return read_state(folder)


def check_unfinished(options: CheckpointOptions) -> None:
    """Raise UserError if ``--resume`` is not a checkpoint, or the last one of a run, which is its model alone."""
    state = check_resume(options)
    if state and state.finished:
        raise UserError(
            f"--resume {options.resume}: this run is finished; to train its model further, give it as --model"
        )
