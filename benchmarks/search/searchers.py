"""The searchers that are compared: a sampler of Optuna, and a rule that stops poor trials early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from fer.tuning.scheduler import ASHA, PROGRESS
from fer.tuning.search import SCORE, make_sampler
from fer.tuning.space import SearchSpace


@dataclass(frozen=True)
class Searcher:
    """One way to search."""

    sampler: Callable[[int], BaseSampler]
    """Makes the sampler from a seed."""
    stopping: Literal["none", "asha", "hyperband"] = "none"
    grace_period: int = 1
    """Epochs, or stages, before ASHA or Hyperband may stop a trial."""
    stopped_as: optuna.trial.TrialState = optuna.trial.TrialState.COMPLETE
    """How a stopped trial is reported: complete with its best score, as `fer tune` does, or pruned, which Optuna's TPE
    ranks below all complete ones, by the epoch that it reached."""


def random(seed: int) -> BaseSampler:
    return make_sampler("random", seed, 0)


def tpe(seed: int) -> BaseSampler:
    return make_sampler("tpe", seed, 0)


def gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed)


PRUNED = optuna.trial.TrialState.PRUNED

SEARCHERS = {
    "random": Searcher(random),
    "random, ASHA from epoch 1": Searcher(random, "asha", 1),
    "random, ASHA from epoch 3": Searcher(random, "asha", 3),
    "TPE": Searcher(tpe),
    "TPE, ASHA from epoch 1": Searcher(tpe, "asha", 1),
    "TPE, ASHA from epoch 1, reported as pruned": Searcher(tpe, "asha", 1, stopped_as=PRUNED),
    "TPE, ASHA from epoch 2": Searcher(tpe, "asha", 2),
    "TPE, ASHA from epoch 3": Searcher(tpe, "asha", 3),
    "TPE, ASHA from epoch 5": Searcher(tpe, "asha", 5),
    # BOHB (Falkner et al., ICML 2018) is Hyperband with a density model per bracket; this is Optuna's form of it.
    "BOHB": Searcher(tpe, "hyperband", stopped_as=PRUNED),
    "GP": Searcher(gp),
    "GP, ASHA from epoch 3": Searcher(gp, "asha", 3),
}
STAGED = {
    "random": Searcher(random),
    "random, ASHA from stage 1": Searcher(random, "asha", 1),
    "random, ASHA from stage 2b": Searcher(random, "asha", 3),
    "TPE": Searcher(tpe),
    "TPE, ASHA from stage 1": Searcher(tpe, "asha", 1),
    "TPE, ASHA from stage 2b": Searcher(tpe, "asha", 3),
    "BOHB": Searcher(tpe, "hyperband", stopped_as=PRUNED),
    "GP": Searcher(gp),
    "GP, ASHA from stage 2b": Searcher(gp, "asha", 3),
}
"""For a training in stages. ASHA's rungs are at the ends of stages."""
TWO_OBJECTIVES = {
    "random": Searcher(random),
    "NSGA-II": Searcher(lambda seed: NSGAIISampler(seed=seed, population_size=8)),
    "TPE": Searcher(tpe),
    "random, ASHA from epoch 3": Searcher(random, "asha", 3),
    "TPE, ASHA from epoch 1": Searcher(tpe, "asha", 1),
    "TPE, ASHA from epoch 3": Searcher(tpe, "asha", 3),
}


def make_pruner(searcher: Searcher, space: SearchSpace, epochs: int) -> optuna.pruners.BasePruner:
    """Hyperband's brackets if the searcher uses them: a sampler then learns from the trials of its bracket only."""
    if searcher.stopping != "hyperband":
        return optuna.pruners.NopPruner()
    return optuna.pruners.HyperbandPruner(searcher.grace_period, epochs, space.reduction_factor)


class Stopping:
    """Decides after each epoch, or stage, whether a trial goes on."""

    def __init__(self, searcher: Searcher, space: SearchSpace, epochs: int) -> None:
        self.searcher = searcher
        self.asha = ASHA(replace(space, grace_period=searcher.grace_period), epochs)

    def starts(self, number: int) -> Trial:
        trial = Trial("replayed", stub=True, trial_id=str(number))
        self.asha.on_trial_add(None, trial)  # type: ignore[arg-type]
        return trial

    def stops(self, trial: Trial, suggested: optuna.Trial, epoch: int, best: float) -> bool:
        """Whether to stop a trial after ``epoch``, with the score that it has by then."""
        if self.searcher.stopping == "hyperband":
            return suggested.should_prune()
        if self.searcher.stopping == "none":
            return False
        result: dict[str, Any] = {PROGRESS: epoch, SCORE: best}
        return self.asha.on_trial_result(None, trial, result) == TrialScheduler.STOP
