"""What a trial leaves on disk as it goes, so that it can be continued: its history, and two checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

HISTORY = "history.json"
PREFIX = "checkpoint_"
COMPLETE = "complete"
"""A file that says that the trial went to its own end."""


class Keeper:
    """A trial's folder, as the trial sees it. Whenever the process dies, a complete checkpoint and its history remain.

    A round is an epoch, counted through the whole trial. The checkpoints of the last round and of the best one stay.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        rounds = self._rounds()
        self.history: list[dict[str, Any]] = []
        if rounds:
            told = json.loads((folder / HISTORY).read_text())
            self.history = [entry for entry in told if entry["round"] <= rounds[-1]]

    @property
    def last(self) -> Path | None:
        """The checkpoint to continue from."""
        rounds = self._rounds()
        return self._path(rounds[-1]) if rounds else None

    @property
    def best(self) -> Path | None:
        """The checkpoint of the best score."""
        return self._path(best_entry(self.history)["round"]) if self.history else None

    def save(self, entry: dict[str, Any], checkpoint: Path) -> None:
        """Add a round's figures, which have a ``round`` and a ``score``, and copy its checkpoint."""
        self.history = [each for each in self.history if each["round"] < entry["round"]] + [entry]
        write(self.folder / HISTORY, json.dumps(self.history, indent=1))
        partial = self.folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(checkpoint, partial)
        target = self._path(entry["round"])
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for number in set(self._rounds()) - {entry["round"], best_entry(self.history)["round"]}:
            shutil.rmtree(self._path(number))

    @property
    def complete(self) -> bool:
        """Whether the trial went to its own end: its last epoch, or where its own patience ended it."""
        return (self.folder / COMPLETE).exists()

    def finish(self) -> None:
        (self.folder / COMPLETE).touch()

    def _path(self, number: int) -> Path:
        return self.folder / f"{PREFIX}{number:04}"

    def _rounds(self) -> list[int]:
        return sorted(int(path.name.removeprefix(PREFIX)) for path in self.folder.glob(f"{PREFIX}*"))


def best_entry(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry of the highest score; of equal ones the first. Of a training in stages, the last stage counts."""
    stage = history[-1].get("stage")
    return max((entry for entry in history if entry.get("stage") == stage), key=lambda entry: entry["score"])


def write(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old text or the new one, never a part."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)
