"""Trial schedulers: ASHA, with the trials of earlier sessions replayed, and population based training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search.sample import Float, Integer

from fer.tuning.checkpoints import best_entry
from fer.tuning.search import SCORE
from fer.tuning.space import SearchSpace
from fer.tuning.trial_record import TrialRecord

PROGRESS = "progress"
"""ASHA's time attribute: epochs, or finished stages. A report without it is not compared."""


class ASHA(AsyncHyperBandScheduler):
    """ASHA (Li et al., MLSys 2020). Records which trials it stopped; trials of earlier sessions can be replayed."""

    def __init__(self, space: SearchSpace, max_progress: int) -> None:
        super().__init__(
            time_attr=PROGRESS,
            metric=SCORE,
            mode="max",
            max_t=max(max_progress, space.grace_period),
            grace_period=space.grace_period,
            reduction_factor=space.reduction_factor,
            stop_last_trials=False,
        )
        self.stopped: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            self.stopped.add(trial.trial_id)
        return decision

    def replay(self, records: Sequence[TrialRecord]) -> None:
        """Fill the rungs with the results of trials that ended in an earlier session."""
        for record in records:
            if record.state in ("finished", "stopped"):
                trial = Trial("replayed", stub=True, trial_id=record.name)
                self.on_trial_add(None, trial)  # type: ignore[arg-type]
                for place, entry in enumerate(record.history, 1):
                    if PROGRESS in entry:
                        best = best_entry(record.history[:place])["score"]
                        result = {PROGRESS: entry[PROGRESS], SCORE: best}
                        super().on_trial_result(None, trial, result)  # type: ignore[arg-type]
                self.on_trial_remove(None, trial)  # type: ignore[arg-type]


def clip_to_space(space: SearchSpace, config: dict[str, Any]) -> dict[str, Any]:
    """Clip perturbed values to the ranges of the space: PBT multiplies them by 0.8 or 1.2."""
    point = config["trial"]["point"]
    for name in space.mutable:
        domain = space.params[name]
        if isinstance(domain, Float | Integer):
            point[name] = min(max(point[name], domain.lower), domain.upper)
    return config


def make_scheduler(
    space: SearchSpace, search: str, scheduler: str, max_progress: int, records: Sequence[TrialRecord]
) -> TrialScheduler:
    """The scheduler of a sweep; ``records`` are trials that ended in earlier sessions."""
    if search == "pbt":
        return PopulationBasedTraining(
            time_attr="trial_epoch",
            metric="score",
            mode="max",
            perturbation_interval=max(1, min(space.grace_period, max_progress // 2)),  # of a short training, too
            custom_explore_fn=partial(clip_to_space, space),
            synch=True,  # else, one trial at a time, the running one copies a waiting one again and again
            hyperparam_mutations={"trial": {"point": {name: space.params[name] for name in space.mutable}}},
        )
    if scheduler == "none":
        return FIFOScheduler()
    asha = ASHA(space, max_progress)
    asha.replay(records)
    return asha
