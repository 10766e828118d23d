"""What the searcher and the scheduler are told of earlier trials, and the points they propose."""

import math
from dataclasses import replace
from typing import Any, Literal

import optuna
import pytest
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from fer.tuning.record import Record
from fer.tuning.report import importance
from fer.tuning.scheduler import Halving, keep_within
from fer.tuning.search import SCORE, CampaignSearch, draw, grid, make_sampler, make_study
from fer.tuning.space import Space

SPACE = Space(
    purpose="a test",
    trains="classifier",
    optimises="nothing",
    vary={"lr": tune.loguniform(1e-4, 1e-2), "loss": tune.choice(["ce", "focal"]), "layers": tune.randint(1, 5)},
    default={"lr": 1e-3, "loss": "ce", "layers": 2},
)


def record(
    number: int, scores: list[float], state: Literal["running", "finished", "stopped", "failed"] = "finished", **at: Any
) -> Record:
    history = [{"round": place, "rung": place, "score": score, "size": 2.0} for place, score in enumerate(scores, 1)]
    return Record(number=number, point=SPACE.default | at, run_id="", state=state, began=0.0, history=history)


def test_a_study_knows_the_best_round_of_each_trial_that_is_over() -> None:
    records = [
        record(0, [0.1, 0.4, 0.3]),
        record(1, [0.2], "stopped"),
        record(2, [], "failed"),
        record(3, [1], "running"),
    ]
    study = make_study(SPACE.vary, records)
    assert [trial.value for trial in study.trials] == [0.4, 0.2, None]
    assert study.best_trial.user_attrs["number"] == 0
    both = make_study(SPACE.vary, records, against="size")
    assert both.trials[0].values == [0.4, 2.0]


def test_the_search_proposes_given_points_first_and_learns_from_the_others() -> None:
    """The known trials say that only a high rate is any good: TPE must go there, chance would not."""
    known = [
        record(i, [math.log10(rate)], lr=rate) for i, rate in enumerate([1e-4, 2e-4, 4e-4, 8e-4, 2e-3, 4e-3, 8e-3] * 3)
    ]
    storage = optuna.storages.InMemoryStorage()
    sampler = make_sampler("tpe", 0, len(known))
    study = make_study(SPACE.vary, known, None, sampler, storage)
    study.enqueue_trial(SPACE.default)
    search = CampaignSearch(SPACE.vary, lambda point: {"point": point}, None, sampler, storage)
    proposed = []
    for number in range(13):
        sent = search.suggest(str(number))
        assert sent is not None
        proposed.append(sent["trial"]["point"])
        search.on_trial_complete(str(number), {SCORE: math.log10(proposed[-1]["lr"])})
    assert proposed[0] == SPACE.default
    assert sum(point["lr"] > 3e-3 for point in proposed[1:]) >= 9


def test_stopping_goes_on_where_an_earlier_session_left_it() -> None:
    """Nine trials passed round 1 before the kill: a tenth that is worse than the best third of them is stopped."""
    told = Halving(SPACE, rungs=9)
    told.tell([record(number, [0.1 * number, 0.1 * number], "stopped") for number in range(9)])
    fresh = Halving(SPACE, rungs=9)
    decisions = []
    for scheduler in (told, fresh):
        trial = Trial("x", stub=True, trial_id="tenth")
        scheduler.on_trial_add(None, trial)
        decisions.append(scheduler.on_trial_result(None, trial, {"rung": 1, SCORE: 0.4}))
    assert decisions == [TrialScheduler.STOP, TrialScheduler.CONTINUE]
    assert told.stopped == {"tenth"}


def test_a_grid_has_every_combination() -> None:
    points = grid(SPACE.vary)
    assert len(points) == 3 * 2 * 3
    assert sorted({point["lr"] for point in points}) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert {point["layers"] for point in points} == {1, 2, 4}


def test_drawn_points_keep_what_is_given_and_differ_by_seed() -> None:
    points = draw(SPACE.vary, [{"lr": 2e-3}], 3, seed=1)
    assert points[0]["lr"] == 2e-3
    assert all(point.keys() == SPACE.vary.keys() for point in points)
    assert draw(SPACE.vary, [], 3, seed=1) != draw(SPACE.vary, [], 3, seed=2)


def test_importance_finds_the_dimension_that_matters() -> None:
    drawn = draw(SPACE.vary, [], 40, seed=0)
    shares = importance(make_study(SPACE.vary, [record(i, [math.log10(p["lr"])], **p) for i, p in enumerate(drawn)]))
    assert shares is not None
    assert shares["lr"] > 0.9
    assert importance(make_study(SPACE.vary, [record(0, [0.5])])) is None


def test_a_population_stays_in_the_space() -> None:
    space = replace(SPACE, mutable=("lr",))
    assert keep_within(space, {"trial": {"point": {"lr": 9e-5}}}) == {"trial": {"point": {"lr": 1e-4}}}
    assert keep_within(space, {"trial": {"point": {"lr": 0.012}}}) == {"trial": {"point": {"lr": 0.01}}}
