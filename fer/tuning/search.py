"""Who proposes trials: Optuna through Ray Tune, told of everything that was tried before."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Domain

from fer.tuning.record import Record
from fer.tuning.space import Point

SCORE = "best_score"
STUDY = "campaign"
GRID_VALUES = 3
"""Values of a numeric dimension in a grid."""

Start = Callable[[Point], dict[str, Any]]
"""Opens the record of a trial at this point, and returns what the trial is sent: number and point."""


def distributions(vary: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """The dimensions as Optuna knows them."""
    return OptunaSearch.convert_search_space(dict(vary))


def make_study(
    vary: Mapping[str, Domain],
    records: Sequence[Record],
    against: str | None = None,
    sampler: optuna.samplers.BaseSampler | None = None,
    storage: optuna.storages.BaseStorage | None = None,
) -> optuna.Study:
    """A study, in memory, of trials that are over. A trial that was stopped early has the best score it reached.

    With ``against`` it has two objectives: the score, and a cost to be kept low.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage or optuna.storages.InMemoryStorage(),
        sampler=sampler,
        study_name=STUDY,
        directions=["maximize", "minimize"] if against else ["maximize"],
    )
    for record in records:
        if record.state == "failed" or (record.state != "running" and record.best):
            study.add_trial(as_optuna(record, vary, against))
    return study


def as_optuna(record: Record, vary: Mapping[str, Domain], against: str | None) -> optuna.trial.FrozenTrial:
    failed = record.state == "failed"
    values = None
    if not failed:
        assert record.best is not None, "a trial that did not fail has a score"
        values = [record.best["score"], record.best[against]] if against else [record.best["score"]]
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
        values=values,
        params={name: record.point[name] for name in vary},
        distributions=distributions(vary),
        user_attrs={"number": record.number},
    )


class CampaignSearch(OptunaSearch):
    """Optuna's proposals as trials of a campaign: each gets its record before it starts."""

    def __init__(
        self,
        vary: Mapping[str, Domain],
        start: Start,
        against: str | None,
        sampler: optuna.samplers.BaseSampler,
        storage: optuna.storages.BaseStorage,
    ) -> None:
        metric: Any = [SCORE, against] if against else SCORE
        mode: Any = ["max", "min"] if against else "max"
        super().__init__(
            distributions(vary),
            metric=metric,
            mode=mode,
            sampler=sampler,
            storage=storage,  # holds the study of `make_study`
            study_name=STUDY,
        )
        self.start = start

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        point = super().suggest(trial_id)
        return {"trial": self.start(point)} if point is not None else None

    def save(self, checkpoint_path: str) -> None:
        """The records are what is saved (see `fer.tuning.record`)."""


def make_sampler(search: str, seed: int, told: int) -> optuna.samplers.BaseSampler:
    """``told`` trials are known already: chance must not draw their points a second time."""
    if search == "tpe":
        return optuna.samplers.TPESampler(seed=seed + told, n_startup_trials=8, multivariate=True)
    return optuna.samplers.RandomSampler(seed=seed + told)


def draw(vary: Mapping[str, Domain], points: Sequence[Point], count: int, seed: int) -> list[Point]:
    """``count`` points: the given ones, with chance for what they leave open, then points by chance alone."""
    study = make_study(vary, [], sampler=optuna.samplers.RandomSampler(seed=seed))
    for point in points:
        study.enqueue_trial(dict(point))
    return [study.ask(distributions(vary)).params for _ in range(count)]


def grid(vary: Mapping[str, Domain]) -> list[Point]:
    """Every combination of all choices, and of three values of each numeric dimension: both ends and the middle."""
    axes = [_values(each) for each in distributions(vary).values()]
    return [dict(zip(vary, values, strict=True)) for values in itertools.product(*axes)]


def _values(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    space = np.geomspace if distribution.log else np.linspace
    values = space(distribution.low, distribution.high, GRID_VALUES)
    if isinstance(distribution, IntDistribution):
        return sorted({round(value) for value in values})
    return [float(np.clip(value, distribution.low, distribution.high)) for value in values]
