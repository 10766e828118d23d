"""Which trials go on: early stopping and population based training, told of the trials of earlier sessions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search.sample import Float, Integer

from fer.tuning.checkpoints import best_entry
from fer.tuning.record import Record
from fer.tuning.search import SCORE
from fer.tuning.space import Space

RUNG = "rung"
"""How far a trial is. Reports without it are not compared."""


class Halving(AsyncHyperBandScheduler):
    """ASHA (Li et al., MLSys 2020), which remembers whom it stopped and can be told of trials that are over."""

    def __init__(self, space: Space, rungs: int) -> None:
        super().__init__(
            time_attr=RUNG,
            metric=SCORE,
            mode="max",
            max_t=max(rungs, space.grace),
            grace_period=space.grace,
            reduction_factor=space.reduction,
            stop_last_trials=False,
        )
        self.stopped: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            self.stopped.add(trial.trial_id)
        return decision

    def tell(self, records: Sequence[Record]) -> None:
        """Fill the rungs with what trials of an earlier session reached."""
        for record in records:
            if record.state in ("finished", "stopped"):
                trial = Trial("told", stub=True, trial_id=record.name)
                self.on_trial_add(None, trial)  # type: ignore[arg-type]
                for place, entry in enumerate(record.history, 1):
                    if RUNG in entry:
                        best = best_entry(record.history[:place])["score"]
                        super().on_trial_result(None, trial, {RUNG: entry[RUNG], SCORE: best})  # type: ignore[arg-type]
                self.on_trial_remove(None, trial)  # type: ignore[arg-type]


def keep_within(space: Space, config: dict[str, Any]) -> dict[str, Any]:
    """A population's changed values, back in the ranges of the space: PBT multiplies them by 0.8 or 1.2."""
    point = config["trial"]["point"]
    for name in space.mutable:
        domain = space.vary[name]
        if isinstance(domain, Float | Integer):
            point[name] = min(max(point[name], domain.lower), domain.upper)
    return config


def make_scheduler(space: Space, search: str, scheduler: str, rungs: int, records: Sequence[Record]) -> TrialScheduler:
    if search == "pbt":
        return PopulationBasedTraining(
            time_attr="round",
            metric="score",
            mode="max",
            perturbation_interval=space.grace,
            custom_explore_fn=partial(keep_within, space),
            synch=True,  # else, one trial at a time, the one that runs copies one that waits again and again
            hyperparam_mutations={"trial": {"point": {name: space.vary[name] for name in space.mutable}}},
        )
    if scheduler == "none":
        return FIFOScheduler()
    halving = Halving(space, rungs)
    halving.tell(records)
    return halving
