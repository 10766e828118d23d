"""What happens to trials, written down as it happens: records, MLflow, and a line for the person who watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ray import cloudpickle
from ray.exceptions import RayTaskError
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from fer.errors import UserError
from fer.tracking import Run, start_run
from fer.training.options import ExperimentOptions
from fer.tuning.checkpoints import Keeper
from fer.tuning.record import Record, number_of, ranked, save, trial_folder
from fer.tuning.scheduler import Halving
from fer.tuning.space import Point

TUNES_OWN = frozenset(
    {
        *("timestamp", "time_total_s", "time_this_iter_s", "time_since_restore", "iterations_since_restore", "pid"),
        *("hostname", "node_ip", "done", "training_iteration", "trial_id", "date", "config", "checkpoint_dir_name"),
        *("best_score", "should_checkpoint", "experiment_tag"),
    }
)


class Watch(Callback):
    """Opens the record of each trial before it starts, and keeps it up to date."""

    def __init__(
        self, campaign: Path, name: str, options: ExperimentOptions, parent: Run, total: int, rounds: int
    ) -> None:
        self.campaign, self.name, self.options, self.parent = campaign, name, options, parent
        self.total, self.rounds = total, rounds
        self.records: dict[int, Record] = {}
        self.unfinished: list[Record] = []
        self.scheduler: TrialScheduler | None = None
        self.on_report: Callable[[], None] = lambda: None

    def take_up(self, records: list[Record]) -> None:
        """The trials of earlier sessions; the interrupted ones are given out again when their points are proposed."""
        self.records = {record.number: record for record in records}
        self.unfinished = [record for record in records if record.state == "running"]

    def start(self, point: Point) -> dict[str, Any]:
        """The record of a trial at this point: an interrupted one's, or a new one. What the trial is sent."""
        record = next((each for each in self.unfinished if each.point == point), None)
        if record is not None:
            self.unfinished.remove(record)
            record.sessions += 1
            start_run(self.options, self.options.experiment, "", record.run_id)
        else:
            number = len(self.records)
            run = start_run(self.options, self.options.experiment, f"{self.name}-{number:03}", parent=self.parent)
            run.log_params(point)
            record = Record(number=number, point=point, run_id=run.run_id, began=time.time())
            self.records[number] = record
        save(self.campaign, record)
        return {"number": record.number, "point": point}

    # -- what Ray Tune calls -------------------------------------------------------------------------------------------

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        record = self._of(trial)
        record.point = trial.config["trial"]["point"]  # population based training changes it
        record.add({key: value for key, value in result.items() if key not in TUNES_OWN})
        save(self.campaign, record)
        self.on_report()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._of(trial)
        if isinstance(self.scheduler, Halving) and trial.trial_id in self.scheduler.stopped:
            self._over(record, "stopped", "KILLED")
        elif record.rounds >= self.rounds or Keeper(trial_folder(self.campaign, record.number)).complete:
            self._over(record, "finished", "FINISHED")
        # Else the time budget ended it: it stays as it is, to be continued.

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._of(trial)
        record.reason = reason_of(trial)
        self._over(record, "failed", "FAILED")

    def _of(self, trial: Trial) -> Record:
        return self.records[number_of(str(trial))]

    def _over(
        self,
        record: Record,
        state: Literal["finished", "stopped", "failed"],
        status: Literal["FINISHED", "FAILED", "KILLED"],
    ) -> None:
        record.state = state
        save(self.campaign, record)
        run = Run(self.parent.uri, record.run_id)
        run.set_tags({"state": state, "reason": record.reason})
        if record.score is not None:
            run.log_metrics({"best_score": record.score}, step=record.rounds)
        run.finish(status)
        print(self._line(record), flush=True)

    def _line(self, record: Record) -> str:
        """How a trial ended, and where the campaign stands."""
        over = sum(each.state != "running" for each in self.records.values())
        words = {
            "finished": f"finished {record.rounds} rounds",
            "stopped": f"stopped after {record.rounds} of {self.rounds} rounds",
            "failed": f"failed: {record.reason}",
            "running": "",
        }[record.state]
        score = f", best {record.score:.4f}" if record.score is not None else ""
        first = ranked(list(self.records.values()))
        leader = f"  |  leading: {first[0].name} with {first[0].score:.4f}" if first else ""
        return f"[{over}/{self.total}] {record.name} {words}{score}{leader}"


def reason_of(trial: Trial) -> str:
    """Why a trial failed, in a line: of a chain of errors the first, or the one that was written for a person."""
    file = trial.pickled_error_file
    error: BaseException | None = cloudpickle.loads(Path(file).read_bytes()) if file else None
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    while error is not None and error.__cause__ is not None and not isinstance(error, UserError):
        error = error.__cause__
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()] or ["no reason was given"]
    if isinstance(error, UserError):
        return lines[0]
    return f"{type(error).__name__}: {' '.join(lines[:2])}"
