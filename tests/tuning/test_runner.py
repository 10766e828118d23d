"""What a resumed sweep refuses, and the points that it goes on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fer.errors import UserError
from fer.training.run import RunFolder
from fer.tuning import runner
from fer.tuning.callback import SweepCallback
from fer.tuning.options import TuneConfig
from fer.tuning.space import Point
from fer.tuning.sweep import plan_sweep
from fer.tuning.trial_record import TrialRecord
from jobs.tune import find_space


def test_a_sweep_is_not_resumed_with_other_data(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "concurrent_trials", lambda *_: 1)
    config = TuneConfig(space="classifier_cpu", data=str(small_shards), storage=str(tmp_path), name="faces")
    RunFolder(config, "tune", "x").update(data_hash="of other rows")
    with pytest.raises(UserError, match="the data of sweep 'faces' has changed since it started: choose another"):
        runner.run_sweep(plan_sweep(config, find_space("classifier_cpu"), {}, []), [])


@pytest.mark.parametrize("search", ["random", "tpe", "pbt"])
def test_a_sweep_whose_trials_were_all_interrupted_draws_new_points(
    search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def points(num_trials: int, records: list[TrialRecord]) -> list[Point]:
        """The points of a session, in order."""
        callback = SweepCallback(None, "c", None, None, num_trials, 1)  # type: ignore[arg-type]
        callback.load(records)
        started: list[Point] = []

        def start_trial(point: Point) -> dict[str, Any]:
            started.append(point)
            return {"number": len(started), "point": point}

        monkeypatch.setattr(callback, "start_trial", start_trial)
        config = TuneConfig(space="classifier_cpu", data="d", search=search, num_trials=num_trials)
        sweep = plan_sweep(config, find_space("classifier_cpu"), {}, [])
        searcher, _ = runner._make_searcher(sweep, callback, [], [])
        if search != "pbt":
            for number in range(num_trials):
                searcher.suggest(str(number))
        return started

    first = points(3, [])
    again = points(5, [TrialRecord(number=i, point=point, run_id="", started=0) for i, point in enumerate(first)])
    assert again[:3] == first, "interrupted trials go on"
    assert all(point not in first for point in again[3:])
