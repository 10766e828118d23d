"""One trial: the job's own loop, inside a function that Ray Tune calls.

A trial of several workers is a Ray Train run, which reports through Ray's callback from Train to Tune. A trial of one
worker runs the same loop in the process that Tune keeps for its trials: a Ray Train run would start six processes for
it, which on two cores takes longer than many a trial.
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
from fer.tuning.checkpoints import Keeper, best_entry
from fer.tuning.profile import latency_ms, millions_of_weights
from fer.tuning.record import number_of, read, trial_folder
from fer.tuning.scheduler import SCORE
from fer.tuning.space import Point, Space
from fer.tuning.trainables.base import Settings, Training


@dataclass(frozen=True)
class Plan:
    """What all trials of a campaign share."""

    folder: Path
    space: Space
    training: Training
    base: dict[str, Any]
    """Options of the job that a point may change."""
    fixed: dict[str, Any]
    """Options of the job that are the same in every trial, whatever the point says."""
    data: Settings
    tracking_uri: str
    against: str | None
    population: bool
    """Population based training: a trial may be given another one's checkpoint, and other options to go on with."""

    def config(self, point: Point) -> Any:
        """The job's config of a trial. Raises UserError for a combination that the job refuses."""
        from pydantic import ValidationError

        from fer.options import explain

        try:
            return self.training.config_class.model_validate(
                merge(merge(self.base, self.space.options(point)), self.fixed)
            )
        except ValidationError as error:
            raise UserError(explain(error)) from None


def merge(options: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Options with those of ``over`` laid over them, groups of options entry by entry."""
    merged = dict(options)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def run_trial(config: dict[str, Any], plan: Plan) -> None:
    """What Ray Tune calls. ``config["trial"]["point"]`` is the point, which a population changes as it goes."""
    # A stopped trial's thread must have left before the next trial gets this process; Ray gives it two seconds.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"
    record = read(plan.folder, number_of(ray.tune.get_context().get_trial_name()))
    folder = trial_folder(plan.folder, record.number)
    reporter = Reporter(plan, plan.config(config["trial"]["point"]), Keeper(folder))
    given = ray.tune.get_checkpoint() if plan.population else None
    if given is None:
        reporter.tell_again()
    resume = Path(given.path) if given else reporter.keeper.last
    if reporter.keeper.complete:
        return
    tracking = Run(plan.tracking_uri, record.run_id)
    job: LaunchOptions = reporter.config
    loop, settings = plan.training.loop(job, plan.data, tracking, folder)
    settings |= {"resume": str(resume) if resume else None, "override_lr": given is not None}
    if job.workers == 1:
        train_here(loop, settings, reporter)
    else:
        train_on_workers(loop, settings, reporter)
    reporter.keeper.finish()


class Reporter:
    """Takes the loop's reports: adds the round and the score, keeps the checkpoint, and tells Tune."""

    def __init__(self, plan: Plan, config: Any, keeper: Keeper) -> None:
        self.plan, self.config, self.keeper = plan, config, keeper
        self.constant: dict[str, float] = {}
        if plan.against:
            network, example = plan.training.network(config, plan.data)
            self.constant["size"] = millions_of_weights(network)
            if plan.against == "latency":
                self.constant["latency"] = latency_ms(network, example)

    def tell_again(self) -> None:
        """Tell Tune the rounds of an earlier session; one that the driver died before hearing of is among them."""
        for entry in self.keeper.history:
            ray.tune.report(self._with_best(entry))

    def keep(self, figures: dict[str, Any], checkpoint: Path) -> dict[str, Any] | None:
        """Save a round; what Tune is to be told of it, or None for a report within a round."""
        number = self.plan.training.round(self.config, figures)
        if number is None:
            return None
        if not math.isfinite(figures["train_loss"]):
            raise UserError(f"training diverged: the loss of round {number} is {figures['train_loss']}")
        entry = {**figures, "round": number, "score": self.plan.training.score(figures), "time": time.time()}
        entry |= self.constant
        rung = self.plan.training.rung(self.config, figures)
        if rung is not None:
            entry["rung"] = rung
        self.keeper.save(entry, checkpoint)
        return self._with_best(entry)

    def _with_best(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Tune compares trials by the best round so far: its weights are the ones that are kept."""
        so_far = [each for each in self.keeper.history if each["round"] <= entry["round"]]
        return {**entry, SCORE: best_entry(so_far)["score"]}


def train_here(loop: Any, settings: Settings, reporter: Reporter) -> None:
    """Train in this process."""

    def send(metrics: dict[str, Any], checkpoint: Checkpoint) -> None:
        told = reporter.keep(metrics, Path(checkpoint.path))
        if told is not None:
            ray.tune.report(told, checkpoint=checkpoint if reporter.plan.population else None)

    loop(settings | {"report_fn": send})


def train_on_workers(loop: Any, settings: Settings, reporter: Reporter) -> None:
    """Train on workers of the trial's own."""
    from ray.tune.integration.ray_train import TuneReportCallback

    from fer.training.launch import RunStorage, launch

    class Reports(TuneReportCallback):
        """Runs where Ray Train's controller does."""

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
            told = reporter.keep(metrics[0], Path(checkpoint.path)) if checkpoint else None
            if told is not None:
                super().after_report(run_context, [told], None)

    # The trial's folder holds what it continues from; Ray Train's own is for the group's restarts.
    place = RunStorage(name=f"{datetime.now():%Y%m%d-%H%M%S}", storage=str(reporter.keeper.folder / "workers"))
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    launch(loop, settings, reporter.config, place, callbacks=[Reports()])
