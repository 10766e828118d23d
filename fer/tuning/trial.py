"""One trial: the job's own training loop, inside a function that Ray Tune calls.

A trial with several workers is a Ray Train run, which reports to Tune through Ray's callback. A trial with one worker
runs the same loop in the process that Tune keeps for its trials: a Ray Train run would start six more processes for it,
which on two cores takes longer than many a trial.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import ray.tune
from ray.train import Checkpoint

from fer.errors import UserError
from fer.tracking import Run
from fer.training.options import LaunchOptions
from fer.tuning.checkpoints import TrialCheckpoints, best_entry
from fer.tuning.scheduler import PROGRESS, SCORE
from fer.tuning.space import Point, SearchSpace
from fer.tuning.trainables.base import Settings, Trainable
from fer.tuning.trial_record import read_record, trial_folder, trial_number


@dataclass(frozen=True)
class TrialTemplate:
    """Everything that the trials of a sweep share; a point completes it."""

    folder: Path
    """The sweep's folder."""
    space: SearchSpace
    trainable: Trainable
    base: dict[str, Any]
    """Options of the job that a point may override."""
    fixed: dict[str, Any]
    """Options of the job that override the point's."""
    data: Settings
    tracking_uri: str
    second_objective: str | None
    population: bool
    """Population based training: a trial may be given another one's checkpoint, and new options to continue with."""

    def job_config(self, point: Point) -> Any:
        """The job's config at a point. Raises UserError for a combination that the job refuses."""
        from pydantic import ValidationError

        from fer.options import describe_errors

        options = merge_options(merge_options(self.base, self.space.to_options(point)), self.fixed)
        try:
            return self.trainable.config_class.model_validate(options)
        except ValidationError as error:
            raise UserError(describe_errors(error)) from None


def merge_options(options: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` updated with ``overrides``, recursively for groups of options."""
    merged = dict(options)
    for name, value in overrides.items():
        old = merged.get(name)
        merged[name] = merge_options(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def run_trial(config: dict[str, Any], template: TrialTemplate) -> None:
    """The function that Ray Tune runs. ``config["trial"]["point"]`` is the point, which PBT changes as it goes."""
    # A stopped trial's thread must have ended before the next trial gets this process; Ray gives it two seconds.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"
    record = read_record(template.folder, trial_number(ray.tune.get_context().get_trial_name()))
    folder = trial_folder(template.folder, record.number)
    reporter = TrialReporter(template, template.job_config(config["trial"]["point"]), TrialCheckpoints(folder))
    given = ray.tune.get_checkpoint() if template.population else None
    if given is None:
        reporter.replay()
    resume = Path(given.path) if given else reporter.checkpoints.last
    if reporter.checkpoints.completed:
        return
    tracking = Run(template.tracking_uri, record.run_id)
    job: LaunchOptions = reporter.config
    loop, settings = template.trainable.train_loop(job, template.data, tracking, folder)
    settings |= {"resume": str(resume) if resume else None}
    if job.workers == 1:
        train_in_process(loop, settings, reporter)
    else:
        train_on_workers(loop, settings, reporter)
    reporter.checkpoints.mark_completed()


class TrialReporter:
    """Takes the training loop's reports: adds epoch, progress and score, saves the checkpoint, and reports to Tune."""

    def __init__(self, template: TrialTemplate, config: Any, checkpoints: TrialCheckpoints) -> None:
        self.template, self.config, self.checkpoints = template, config, checkpoints
        self.cost: dict[str, float] = {}
        if template.second_objective:
            from fer.tuning.profile import latency_ms, million_parameters

            network, example = template.trainable.network(config, template.data)
            self.cost["size"] = million_parameters(network)
            if template.second_objective == "latency":
                self.cost["latency"] = latency_ms(network, example)

    def replay(self) -> None:
        """Report the epochs of earlier sessions again: a killed driver may have missed the last of them."""
        for entry in self.checkpoints.history:
            ray.tune.report(self._with_best(entry))

    def save(self, metrics: dict[str, Any], checkpoint: Path) -> dict[str, Any] | None:
        """Save an epoch; what to report to Tune, or None for a report within an epoch."""
        trainable = self.template.trainable
        epoch = trainable.trial_epoch(self.config, metrics)
        if epoch is None:
            return None
        if not math.isfinite(metrics["train_loss"]):
            raise UserError(f"training diverged: the loss of epoch {epoch} is {metrics['train_loss']}")
        entry = {**metrics, "trial_epoch": epoch, "score": trainable.score(metrics), "time": time.time(), **self.cost}
        progress = trainable.progress(self.config, metrics)
        if progress is not None:
            entry[PROGRESS] = progress
        self.checkpoints.save(entry, checkpoint)
        return self._with_best(entry)

    def _with_best(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Trials are compared by their best epoch so far, since its weights are the ones kept."""
        so_far = [each for each in self.checkpoints.history if each["trial_epoch"] <= entry["trial_epoch"]]
        return {**entry, SCORE: best_entry(so_far)["score"]}


def train_in_process(loop: Any, settings: Settings, reporter: TrialReporter) -> None:
    """Train in this process."""

    def report(metrics: dict[str, Any], checkpoint: Checkpoint) -> None:
        result = reporter.save(metrics, Path(checkpoint.path))
        if result is not None:
            ray.tune.report(result, checkpoint=checkpoint if reporter.template.population else None)

    loop(settings | {"report_fn": report})


def train_on_workers(loop: Any, settings: Settings, reporter: TrialReporter) -> None:
    """Train on Ray Train workers of the trial's own."""
    from ray.tune.integration.ray_train import TuneReportCallback

    from fer.training.launch import RunStorage, launch

    class ReportToTune(TuneReportCallback):
        """Runs in Ray Train's controller."""

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
            result = reporter.save(metrics[0], Path(checkpoint.path)) if checkpoint else None
            if result is not None:
                super().after_report(run_context, [result], None)

    # A trial resumes from its own folder; Ray Train's storage only serves restarts of the worker group.
    storage = RunStorage(name=f"{datetime.now():%Y%m%d-%H%M%S}", storage=str(reporter.checkpoints.folder / "workers"))
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    launch(loop, settings, reporter.config, storage, callbacks=[ReportToTune()])
