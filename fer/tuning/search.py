"""Search algorithms: Optuna through Ray Tune, initialised with every trial that is already known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Domain

from fer.tuning.space import Point
from fer.tuning.trial_record import TrialRecord

SCORE = "best_score"
STUDY = "sweep"
GRID_VALUES = 3
"""Values of a numeric hyperparameter in a grid."""

StartTrial = Callable[[Point], dict[str, Any]]
"""Creates the record of a trial at this point; returns the trial's config: its number and point."""

HasFailed = Callable[[int], bool]
"""Whether the trial of this number has failed."""


def distributions(params: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """Ray Tune's distributions as Optuna's."""
    return OptunaSearch.convert_search_space(dict(params))


def make_study(
    params: Mapping[str, Domain],
    records: Sequence[TrialRecord],
    second_objective: str | None = None,
    sampler: optuna.samplers.BaseSampler | None = None,
    storage: optuna.storages.BaseStorage | None = None,
) -> optuna.Study:
    """An in-memory study of the trials that have ended. One that was stopped early counts with its best score.

    With ``second_objective``, the score is maximised and that cost minimised.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage or optuna.storages.InMemoryStorage(),
        sampler=sampler,
        study_name=STUDY,
        directions=["maximize", "minimize"] if second_objective else ["maximize"],
    )
    for record in records:
        if record.state == "failed" or (record.state != "running" and record.best):
            study.add_trial(to_optuna(record, params, second_objective))
    return study


def to_optuna(
    record: TrialRecord, params: Mapping[str, Domain], second_objective: str | None
) -> optuna.trial.FrozenTrial:
    failed = record.state == "failed"
    values = None
    if not failed:
        assert record.best is not None, "a trial that did not fail has a score"
        costs = [record.best[second_objective]] if second_objective else []
        values = [record.best["score"], *costs]
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
        values=values,
        params={name: record.point[name] for name in params},
        distributions=distributions(params),
        user_attrs={"number": record.number},
    )


class SweepSearch(OptunaSearch):
    """Optuna's suggestions as trials of a sweep: the record of each is created before it starts."""

    def __init__(
        self,
        params: Mapping[str, Domain],
        start_trial: StartTrial,
        second_objective: str | None,
        sampler: optuna.samplers.BaseSampler,
        storage: optuna.storages.BaseStorage,
        has_failed: HasFailed,
    ) -> None:
        metric: Any = [SCORE, second_objective] if second_objective else SCORE
        mode: Any = ["max", "min"] if second_objective else "max"
        super().__init__(
            distributions(params),
            metric=metric,
            mode=mode,
            sampler=sampler,
            storage=storage,  # holds the study of `make_study`
            study_name=STUDY,
        )
        self.start_trial, self.has_failed = start_trial, has_failed
        self.numbers: dict[str, int] = {}
        """Of the trials, by Tune's id."""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        point = super().suggest(trial_id)
        if point is None:
            return None
        config = self.start_trial(point)
        self.numbers[trial_id] = config["number"]
        return {"trial": config}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        failed = error or self.has_failed(self.numbers[trial_id])
        super().on_trial_complete(trial_id, None if failed else result, error=failed)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trial records are the state (see `fer.tuning.trial_record`)."""


def make_sampler(search: str, seed: int, num_known: int) -> optuna.samplers.BaseSampler:
    """``num_known`` trials, interrupted ones too, were sampled already: another seed, so that none is drawn again."""
    if search == "tpe":
        return optuna.samplers.TPESampler(seed=seed + num_known, n_startup_trials=8, multivariate=True)
    return optuna.samplers.RandomSampler(seed=seed + num_known)


def sample_points(params: Mapping[str, Domain], given: Sequence[Point], count: int, seed: int) -> list[Point]:
    """``count`` points: the given ones, completed at random where they are partial, then random ones."""
    study = make_study(params, [], sampler=optuna.samplers.RandomSampler(seed=seed))
    for point in given:
        study.enqueue_trial(dict(point))
    return [study.ask(distributions(params)).params for _ in range(count)]


def grid_values(params: Mapping[str, Domain]) -> dict[str, list[Any]]:
    """Values of each hyperparameter in a grid: all choices; of a numeric range both ends and the middle."""
    return {name: _values(distribution) for name, distribution in distributions(params).items()}


def grid_points(params: Mapping[str, Domain]) -> list[Point]:
    """Every combination of the grid's values."""
    return [dict(zip(params, values, strict=True)) for values in itertools.product(*grid_values(params).values())]


def _values(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    space = np.geomspace if distribution.log else np.linspace
    values = space(distribution.low, distribution.high, GRID_VALUES)
    if isinstance(distribution, IntDistribution):
        return sorted({round(value) for value in values})
    return [float(np.clip(value, distribution.low, distribution.high)) for value in values]
