"""A trial's folder: its history, and the checkpoints of its last and its best epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer.storage import remove_folder, upload_folder, write_atomically

if TYPE_CHECKING:
    from upath import UPath

HISTORY = "history.json"
PREFIX = "checkpoint_"
SAVED = "saved"
"""Marker file of a checkpoint, written last."""
COMPLETED = "complete"
"""Marker file of a trial that ran to its end."""
FAILED = "error.txt"
"""Why a trial failed: a line, then the traceback."""


class TrialCheckpoints:
    """Saves a trial's history and checkpoints. A process killed at any point leaves a complete checkpoint behind.

    Epochs are counted over the whole trial (``trial_epoch``). The last checkpoint and the best one are kept.
    """

    def __init__(self, folder: UPath) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        epochs = self._saved_epochs()
        self.history: list[dict[str, Any]] = []
        if epochs:  # the history is written before its checkpoint, so it may be one entry ahead
            entries = json.loads((folder / HISTORY).read_text())
            self.history = [entry for entry in entries if entry["trial_epoch"] <= epochs[-1]]

    @property
    def last(self) -> UPath | None:
        """The checkpoint to resume from."""
        epochs = self._saved_epochs()
        return self._path(epochs[-1]) if epochs else None

    @property
    def best(self) -> UPath | None:
        """The checkpoint with the best score."""
        return self._path(best_entry(self.history)["trial_epoch"]) if self.history else None

    def save(self, entry: dict[str, Any], checkpoint: Path) -> None:
        """Append an epoch's metrics, with ``trial_epoch`` and ``score``, and copy its checkpoint."""
        epoch = entry["trial_epoch"]
        self.history = [each for each in self.history if each["trial_epoch"] < epoch] + [entry]
        write_atomically(self.folder / HISTORY, json.dumps(self.history, indent=1))
        self._remove(epoch)
        upload_folder(checkpoint, str(self._path(epoch)))
        (self._path(epoch) / SAVED).touch()
        for other in set(self._saved_epochs()) - {epoch, best_entry(self.history)["trial_epoch"]}:
            self._remove(other)

    @property
    def completed(self) -> bool:
        """Whether the trial ran to its end: the last epoch, or early stopping by its own ``patience``."""
        return (self.folder / COMPLETED).exists()

    def mark_completed(self) -> None:
        (self.folder / COMPLETED).touch()

    @property
    def error(self) -> str:
        """Why the trial failed, in one line; empty if it did not."""
        file = self.folder / FAILED
        return file.read_text().partition("\n")[0] if file.exists() else ""

    def mark_started(self) -> None:
        """Forget why an earlier attempt failed."""
        (self.folder / FAILED).unlink(missing_ok=True)

    def mark_failed(self, reason: str, traceback: str) -> None:
        write_atomically(self.folder / FAILED, f"{reason}\n\n{traceback}")

    def _remove(self, epoch: int) -> None:
        (self._path(epoch) / SAVED).unlink(missing_ok=True)
        remove_folder(str(self._path(epoch)))

    def _path(self, epoch: int) -> UPath:
        return self.folder / f"{PREFIX}{epoch:04}"

    def _saved_epochs(self) -> list[int]:
        return sorted(int(path.parent.name.removeprefix(PREFIX)) for path in self.folder.glob(f"{PREFIX}*/{SAVED}"))


def best_entry(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry with the highest score, the first of equal ones. If the job trains in stages, only the last counts."""
    stage = history[-1].get("stage")
    return max((entry for entry in history if entry.get("stage") == stage), key=lambda entry: entry["score"])
