"""The Tune callback of a sweep: keeps the trial records and MLflow up to date, and prints a line per ended trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ray import cloudpickle
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from fer.tracking import Run, start_run
from fer.training.options import ExperimentOptions
from fer.tuning.checkpoints import TrialCheckpoints
from fer.tuning.scheduler import ASHA
from fer.tuning.space import Point
from fer.tuning.trial import error_line
from fer.tuning.trial_record import TrialRecord, ranked, save_record, trial_folder, trial_number

if TYPE_CHECKING:
    from upath import UPath

TUNE_KEYS = frozenset(
    {
        *("timestamp", "time_total_s", "time_this_iter_s", "time_since_restore", "iterations_since_restore", "pid"),
        *("hostname", "node_ip", "done", "training_iteration", "trial_id", "date", "config", "checkpoint_dir_name"),
        *("best_score", "should_checkpoint", "experiment_tag"),
    }
)
"""Entries of a result that Ray Tune adds, or that follow from the others: not recorded."""


class SweepCallback(Callback):
    """Creates the record of each trial before it starts, and updates it at every report."""

    def __init__(
        self, folder: UPath, name: str, options: ExperimentOptions, parent: Run, num_trials: int, max_epochs: int
    ) -> None:
        self.folder, self.name, self.options, self.parent = folder, name, options, parent
        self.num_trials, self.max_epochs = num_trials, max_epochs
        self.records: dict[int, TrialRecord] = {}
        self.interrupted: list[TrialRecord] = []
        self.scheduler: TrialScheduler | None = None
        self.on_report: Callable[[], None] = lambda: None

    def load(self, records: list[TrialRecord]) -> None:
        """Take the trials of earlier sessions. An interrupted one resumes when its point is suggested again."""
        self.records = {record.number: record for record in records}
        self.interrupted = [record for record in records if record.state == "running"]

    def start_trial(self, point: Point) -> dict[str, Any]:
        """Create a record for a trial at this point, or reopen an interrupted one's; returns the trial's config."""
        record = next((each for each in self.interrupted if each.point == point), None)
        if record is not None:
            self.interrupted.remove(record)
            record.attempts += 1
            start_run(self.options, self.options.experiment, "", record.run_id, self.parent)
        else:
            number = len(self.records)
            run = start_run(self.options, self.options.experiment, f"{self.name}-{number:03}", parent=self.parent)
            run.log_params(point)
            record = TrialRecord(number=number, point=point, run_id=run.run_id, started=time.time())
            self.records[number] = record
        save_record(self.folder, record)
        return {"number": record.number, "point": point}

    # -- called by Ray Tune --------------------------------------------------------------------------------------------

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        record = self._record(trial)
        record.add({key: value for key, value in result.items() if key not in TUNE_KEYS})
        if record.best is record.history[-1]:
            # Population based training changes the point, the trial's own config even before this call.
            record.point = result["config"]["trial"]["point"]
        save_record(self.folder, record)
        self.on_report()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        if self.has_failed(record.number):
            record.error = self._checkpoints(record).error
            self._end_trial(record, "failed", "FAILED")
        elif isinstance(self.scheduler, ASHA) and trial.trial_id in self.scheduler.stopped:
            self._end_trial(record, "stopped", "KILLED")
        elif record.epochs >= self.max_epochs or self._checkpoints(record).completed:
            self._end_trial(record, "finished", "FINISHED")
        # Otherwise the time budget ended it: it stays "running", to be resumed.

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        record.attempts += 1
        save_record(self.folder, record)
        print(f"{record.name} was lost ({lost_line(trial)}); it goes on from epoch {record.epochs}", flush=True)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        record.error = lost_line(trial)
        self._end_trial(record, "failed", "FAILED")

    def has_failed(self, number: int) -> bool:
        """Whether a trial has ended with an error of its own."""
        return bool(self._checkpoints(self.records[number]).error)

    def _record(self, trial: Trial) -> TrialRecord:
        return self.records[trial_number(str(trial))]

    def _checkpoints(self, record: TrialRecord) -> TrialCheckpoints:
        return TrialCheckpoints(trial_folder(self.folder, record.number))

    def _end_trial(
        self,
        record: TrialRecord,
        state: Literal["finished", "stopped", "failed"],
        status: Literal["FINISHED", "FAILED", "KILLED"],
    ) -> None:
        record.state = state
        save_record(self.folder, record)
        run = replace(self.parent, run_id=record.run_id)
        run.set_tags({"state": state, "error": record.error})
        if record.score is not None:
            run.log_metrics({"best_score": record.score}, step=record.epochs)
        run.set_status(status)
        print(self._status_line(record), flush=True)

    def _status_line(self, record: TrialRecord) -> str:
        """How a trial ended, and the state of the sweep."""
        ended = sum(each.state != "running" for each in self.records.values())
        outcome = {
            "finished": f"finished {record.epochs} epochs",
            "stopped": f"stopped after {record.epochs} of {self.max_epochs} epochs",
            "failed": f"failed: {record.error}",
            "running": "",
        }[record.state]
        score = f", best {record.score:.4f}" if record.score is not None else ""
        leaders = ranked(list(self.records.values()))
        leader = f"  |  best so far: {leaders[0].name} with {leaders[0].score:.4f}" if leaders else ""
        return f"[{ended}/{self.num_trials}] {record.name} {outcome}{score}{leader}"


def lost_line(trial: Trial) -> str:
    """What a trial's process was lost to, in one line."""
    file = trial.pickled_error_file
    return error_line(cloudpickle.loads(Path(file).read_bytes())) if file else "no error message"
