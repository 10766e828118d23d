"""Replaying known trials to the search algorithm and the scheduler, and the points they suggest."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import optuna
import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from fer.tuning.report import param_importances
from fer.tuning.scheduler import ASHA, clip_to_space
from fer.tuning.search import SCORE, SweepSearch, grid_points, make_sampler, make_study, sample_points
from fer.tuning.space import SearchSpace
from fer.tuning.trial_record import TrialRecord

MakeRecord = Callable[..., TrialRecord]


@pytest.fixture
def record(space: SearchSpace) -> MakeRecord:
    def make(
        number: int,
        scores: list[float],
        state: Literal["running", "finished", "stopped", "failed"] = "finished",
        **point: Any,
    ) -> TrialRecord:
        history = [
            {"trial_epoch": epoch, "progress": epoch, "score": score, "size": 2.0}
            for epoch, score in enumerate(scores, 1)
        ]
        return TrialRecord(
            number=number, point=space.default | point, run_id="", state=state, started=0.0, history=history
        )

    return make


def test_a_study_has_the_best_score_of_each_ended_trial(space: SearchSpace, record: MakeRecord) -> None:
    records = [
        record(0, [0.1, 0.4, 0.3]),
        record(1, [0.2], "stopped"),
        record(2, [], "failed"),
        record(3, [1], "running"),
    ]
    study = make_study(space.params, records)
    assert [trial.value for trial in study.trials] == [0.4, 0.2, None]
    assert study.best_trial.user_attrs["number"] == 0
    both = make_study(space.params, records, second_objective="size")
    assert both.trials[0].values == [0.4, 2.0]


def test_the_search_suggests_given_points_first_and_learns_from_known_trials(
    space: SearchSpace, record: MakeRecord
) -> None:
    """In the known trials only a high learning rate is good: TPE must go there, random search would not."""
    known = [
        record(i, [math.log10(rate)], lr=rate) for i, rate in enumerate([1e-4, 2e-4, 4e-4, 8e-4, 2e-3, 4e-3, 8e-3] * 3)
    ]
    storage = optuna.storages.InMemoryStorage()
    sampler = make_sampler("tpe", 0, len(known))
    study = make_study(space.params, known, None, sampler, storage)
    study.enqueue_trial(space.default)
    search = SweepSearch(space.params, lambda point: {"point": point}, None, sampler, storage)
    suggested = []
    for number in range(13):
        config = search.suggest(str(number))
        assert config is not None
        suggested.append(config["trial"]["point"])
        search.on_trial_complete(str(number), {SCORE: math.log10(suggested[-1]["lr"])})
    assert suggested[0] == space.default
    assert sum(point["lr"] > 3e-3 for point in suggested[1:]) >= 9


def test_asha_continues_from_the_rungs_of_an_earlier_session(space: SearchSpace, record: MakeRecord) -> None:
    """Nine trials reached epoch 1 before the kill: a tenth that is worse than the best third of them is stopped."""
    replayed = ASHA(space, max_progress=9)
    replayed.replay([record(number, [0.1 * number, 0.1 * number], "stopped") for number in range(9)])
    fresh = ASHA(space, max_progress=9)
    decisions = []
    for scheduler in (replayed, fresh):
        trial = Trial("x", stub=True, trial_id="tenth")
        scheduler.on_trial_add(None, trial)
        decisions.append(scheduler.on_trial_result(None, trial, {"progress": 1, SCORE: 0.4}))
    assert decisions == [TrialScheduler.STOP, TrialScheduler.CONTINUE]
    assert replayed.stopped == {"tenth"}


def test_a_grid_has_every_combination(space: SearchSpace) -> None:
    points = grid_points(space.params)
    assert len(points) == 3 * 2 * 3
    assert sorted({point["lr"] for point in points}) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert {point["layers"] for point in points} == {1, 2, 4}


def test_sampled_points_keep_given_values_and_differ_by_seed(space: SearchSpace) -> None:
    points = sample_points(space.params, [{"lr": 2e-3}], 3, seed=1)
    assert points[0]["lr"] == 2e-3
    assert all(point.keys() == space.params.keys() for point in points)
    assert sample_points(space.params, [], 3, seed=1) != sample_points(space.params, [], 3, seed=2)


def test_importance_finds_the_hyperparameter_that_matters(space: SearchSpace, record: MakeRecord) -> None:
    points = sample_points(space.params, [], 40, seed=0)
    records = [record(i, [math.log10(point["lr"])], **point) for i, point in enumerate(points)]
    importances = param_importances(make_study(space.params, records))
    assert importances is not None
    assert importances["lr"] > 0.9
    assert param_importances(make_study(space.params, [record(0, [0.5])])) is None


def test_a_population_stays_in_the_space(space: SearchSpace) -> None:
    mutable = replace(space, mutable=("lr",))
    assert clip_to_space(mutable, {"trial": {"point": {"lr": 9e-5}}}) == {"trial": {"point": {"lr": 1e-4}}}
    assert clip_to_space(mutable, {"trial": {"point": {"lr": 0.012}}}) == {"trial": {"point": {"lr": 0.01}}}
