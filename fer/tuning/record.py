"""What the driver knows of each trial: a file for each, written at every round. They are the campaign's memory.

A campaign that is started again reads them and tells the searcher and the scheduler: no state of Ray Tune or Optuna is
saved, so there is none that a kill could leave behind half written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fer.tuning.checkpoints import best_entry, write

TRIALS = "trials"
RECORD = "trial.json"

State = Literal["running", "finished", "stopped", "failed"]


class Record(BaseModel):
    """`trial.json`."""

    model_config = ConfigDict(extra="forbid")

    number: int
    """From 0, in the order of their start."""
    point: dict[str, Any]
    run_id: str
    """MLflow run of the trial."""
    state: State = "running"
    """``running`` is also what a trial stays that a kill, or the end of the time budget, interrupted."""
    reason: str = ""
    """Why it failed."""
    began: float
    """Seconds since 1970, when the first process took it up."""
    sessions: int = 1
    """How often a process took it up: 2 if it was interrupted once."""
    history: list[dict[str, Any]] = []
    """One entry for each round: ``round``, ``score``, when it was reported (``time``), and the loop's own figures."""

    @property
    def name(self) -> str:
        return f"trial-{self.number:03}"

    @property
    def rounds(self) -> int:
        return int(self.history[-1]["round"]) if self.history else 0

    @property
    def best(self) -> dict[str, Any] | None:
        """The entry of the best round; None before the first is done."""
        return best_entry(self.history) if self.history else None

    @property
    def score(self) -> float | None:
        return float(self.best["score"]) if self.best else None

    def add(self, entry: dict[str, Any]) -> None:
        """Add a round; one that is told a second time, after an interruption, takes the place of the first telling."""
        self.history = [each for each in self.history if each["round"] < entry["round"]] + [entry]


def trial_folder(campaign: Path, number: int) -> Path:
    return campaign / TRIALS / f"{number:03}"


def save(campaign: Path, record: Record) -> None:
    folder = trial_folder(campaign, record.number)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / RECORD, json.dumps(record.model_dump(), indent=1))


def number_of(name: str) -> int:
    """The number of the trial that Ray Tune knows by this name. (A population's trials copy each other's config.)"""
    return int(name.removeprefix("trial-"))


def read(campaign: Path, number: int) -> Record:
    return Record.model_validate(json.loads((trial_folder(campaign, number) / RECORD).read_text()))


def read_all(campaign: Path) -> list[Record]:
    """Every trial of a campaign, by number."""
    numbers = sorted(int(file.parent.name) for file in (campaign / TRIALS).glob(f"*/{RECORD}"))
    return [read(campaign, number) for number in numbers]


def ranked(records: list[Record]) -> list[Record]:
    """Trials that have a score, the best first."""
    return sorted((r for r in records if r.history and r.state != "failed"), key=lambda r: -(r.score or 0.0))
