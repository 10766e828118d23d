"""The search algorithm: what it knows of earlier trials, and the points it suggests."""

import math
from collections.abc import Callable

import optuna
import pytest

from fer.tuning.search import SCORE, SweepSearch, grid_points, make_sampler, make_study, sample_points
from fer.tuning.space import SearchSpace
from fer.tuning.trial_record import TrialRecord

MakeRecord = Callable[..., TrialRecord]


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
    search = SweepSearch(
        space.params, lambda point: {"number": 0, "point": point}, None, sampler, storage, lambda number: False
    )
    suggested = []
    for number in range(13):
        config = search.suggest(str(number))
        assert config is not None
        suggested.append(config["trial"]["point"])
        search.on_trial_complete(str(number), {SCORE: math.log10(suggested[-1]["lr"])})
    assert suggested[0] == space.default
    assert sum(point["lr"] > 3e-3 for point in suggested[1:]) >= 9


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
