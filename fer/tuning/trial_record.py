"""Trial records: one JSON file per trial, written by the driver at every epoch.

They are all that a sweep remembers. A resumed sweep reads them and replays them to the search algorithm and the
scheduler; no state of Ray Tune or Optuna is saved, so a kill cannot leave any half written.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from fer.storage import write_atomically
from fer.tuning.checkpoints import best_entry

if TYPE_CHECKING:
    from upath import UPath

TRIALS = "trials"
RECORD = "trial.json"

State = Literal["running", "finished", "stopped", "failed"]


class TrialRecord(BaseModel):
    """`trial.json`."""

    model_config = ConfigDict(extra="forbid")

    number: int
    """From 0, in the order of their start."""
    point: dict[str, Any]
    """Of a trial whose point population based training changes, that of its best epoch."""
    run_id: str
    """MLflow run of the trial."""
    state: State = "running"
    """A trial that was interrupted by a kill or by the end of the time budget also stays ``running``."""
    error: str = ""
    """Why it failed."""
    started: float
    """Unix time at which the first attempt started."""
    attempts: int = 1
    """How many times it was started: 2 if it was interrupted and resumed once."""
    history: list[dict[str, Any]] = []
    """One entry per epoch: ``trial_epoch``, ``score``, when it was reported (``time``), and the loop's metrics."""

    @property
    def name(self) -> str:
        return f"trial-{self.number:03}"

    @property
    def epochs(self) -> int:
        """Epochs completed."""
        return int(self.history[-1]["trial_epoch"]) if self.history else 0

    @property
    def best(self) -> dict[str, Any] | None:
        """The entry of the best epoch; None before the first is completed."""
        return best_entry(self.history) if self.history else None

    @property
    def score(self) -> float | None:
        return float(self.best["score"]) if self.best else None

    def add(self, entry: dict[str, Any]) -> None:
        """Add an epoch's entry. An entry that is replayed after an interruption replaces the first one."""
        self.history = [each for each in self.history if each["trial_epoch"] < entry["trial_epoch"]] + [entry]


def trial_folder(sweep: UPath, number: int) -> UPath:
    return sweep / TRIALS / f"{number:03}"


def trial_number(name: str) -> int:
    """The number of the trial with this name in Ray Tune. (Its config does not tell: in PBT, trials copy configs.)"""
    return int(name.removeprefix("trial-"))


def save_record(sweep: UPath, record: TrialRecord) -> None:
    folder = trial_folder(sweep, record.number)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RECORD, json.dumps(record.model_dump(), indent=1))


def read_record(sweep: UPath, number: int) -> TrialRecord:
    return TrialRecord.model_validate(json.loads((trial_folder(sweep, number) / RECORD).read_text()))


def read_records(sweep: UPath) -> list[TrialRecord]:
    """All trials of a sweep, by number."""
    numbers = sorted(int(file.parent.name) for file in (sweep / TRIALS).glob(f"*/{RECORD}"))
    return [read_record(sweep, number) for number in numbers]


def ranked(records: list[TrialRecord]) -> list[TrialRecord]:
    """Trials that have a score, the best first."""
    return sorted((r for r in records if r.history and r.state != "failed"), key=lambda r: -(r.score or 0.0))
