"""One trial: the job's own training loop, inside a function that Ray Tune calls.

A trial with several workers is a Ray Train run, which reports to Tune through Ray's callback. A trial with one worker
runs the same loop in the process that Tune keeps for its trials: a Ray Train run would start six more processes for it,
which on two cores takes longer than many a trial.
"""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.tune
from pyarrow.fs import LocalFileSystem
from ray.exceptions import RayError, RayTaskError
from ray.train import Checkpoint

from fer.cpus import cpu_count
from fer.errors import UserError
from fer.mlflow_buffer import WORKER_FLUSH_SECONDS, flush
from fer.tracking import Run
from fer.training.options import LaunchOptions
from fer.tuning.checkpoints import TrialCheckpoints, best_entry
from fer.tuning.scheduler import PROGRESS, SCORE
from fer.tuning.space import Point, SearchSpace
from fer.tuning.trainables.base import Settings, Trainable
from fer.tuning.trial_record import TrialRecord, read_record, trial_folder, trial_number

if TYPE_CHECKING:
    from upath import UPath


@dataclass(frozen=True)
class TrialTemplate:
    """Everything that the trials of a sweep share; a point completes it."""

    folder: UPath
    """The sweep's folder."""
    space: SearchSpace
    trainable: Trainable
    base: dict[str, Any]
    """Options of the job that a point may override."""
    fixed: dict[str, Any]
    """Options of the job that override the point's."""
    data: Settings
    tracking: Run
    """The sweep's own run."""
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
    """The function that Ray Tune runs. ``config["trial"]["point"]`` is the point, which PBT changes as it goes.

    Tune starts a trial again after any exception. That is what a lost node needs; every other error would only come
    again, so it is written to the trial's folder.
    """
    # A stopped trial's thread must have ended before the next trial gets this process; Ray gives it two seconds.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"
    record = read_record(template.folder, trial_number(ray.tune.get_context().get_trial_name()))
    folder = trial_folder(template.folder, record.number)
    try:
        train_trial(config, template, record, folder)
    except Exception as error:
        if is_loss(error):
            raise
        TrialCheckpoints(folder).mark_failed(error_line(error), traceback.format_exc())
    finally:
        flush(WORKER_FLUSH_SECONDS, announce=False)  # the sweep's own process finds it


def is_loss(error: Exception) -> bool:
    """Whether an error means that a process or a node is gone, and not that something is wrong with the trial."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return isinstance(cause, RayError)


def error_line(error: BaseException) -> str:
    """An error in one line: of a chain of errors a UserError if there is one, else the original error."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    while error.__cause__ is not None and not isinstance(error, UserError):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no error message"]
    return lines[0] if isinstance(error, UserError) else f"{type(error).__name__}: {' '.join(lines[:2])}"


def train_trial(config: dict[str, Any], template: TrialTemplate, record: TrialRecord, folder: UPath) -> None:
    """Train at the trial's point, from its last checkpoint on."""
    reporter = TrialReporter(template, template.job_config(config["trial"]["point"]), TrialCheckpoints(folder))
    reporter.checkpoints.mark_started()
    given = ray.tune.get_checkpoint() if template.population else None
    if given is None:
        reporter.replay()
    resume = _local(given) if given else reporter.checkpoints.last
    if reporter.checkpoints.completed:
        return
    tracking = replace(template.tracking, run_id=record.run_id)
    threads = reporter.config.threads or threads_per_worker(reporter.config)
    job: LaunchOptions = reporter.config.model_copy(update={"threads": threads})
    loop, settings = template.trainable.train_loop(job, template.data, tracking, folder)
    settings |= {"resume": str(resume) if resume else None}
    if job.workers == 1:
        train_in_process(loop, settings, reporter)
    else:
        train_on_workers(loop, settings, reporter)
    reporter.checkpoints.mark_completed()


def threads_per_worker(job: LaunchOptions) -> int:
    """Compute threads of each worker of a trial: its part of this node, by the CPUs that the trial takes of Ray's."""
    node_id = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == node_id)
    part = job.required_cpus / job.workers / max(node["Resources"].get("CPU", 0), job.required_cpus)
    return max(1, int(cpu_count() * part))


def _local(checkpoint: ray.tune.Checkpoint) -> str:
    """The folder of a checkpoint, or of a copy of one in an object store."""
    return checkpoint.path if isinstance(checkpoint.filesystem, LocalFileSystem) else checkpoint.to_directory()


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
            result = None
            if checkpoint:
                with checkpoint.as_directory() as folder:
                    result = reporter.save(metrics[0], Path(folder))
            if result is not None:
                super().after_report(run_context, [result], None)

    # A trial resumes from its own folder; Ray Train's storage only serves restarts of the worker group.
    storage = RunStorage(name=f"{datetime.now():%Y%m%d-%H%M%S}", storage=str(reporter.checkpoints.folder / "workers"))
    launch(loop, settings, reporter.config, storage, callbacks=[ReportToTune()])
