"""What a trial's record keeps of its reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from fer.storage import open_path
from fer.training.options import ExperimentOptions
from fer.tuning.callback import SweepCallback
from fer.tuning.trial_record import TrialRecord, read_record


class NamedTrial(SimpleNamespace):
    """A trial of Ray Tune, as far as the callback reads it."""

    def __str__(self) -> str:
        return "trial-000"


def test_a_trial_of_a_population_keeps_the_point_of_its_best_epoch(
    record: Callable[..., TrialRecord], tmp_path: Path
) -> None:
    callback = SweepCallback(open_path(str(tmp_path)), "c", ExperimentOptions(), Mock(), num_trials=1, max_epochs=3)
    callback.load([record(0, [], "running")])
    trial: Any = NamedTrial(config={"trial": {"point": {"lr": 0.004}}})  # what the next epoch is to be trained with
    for epoch, (rate, score) in enumerate([(0.001, 0.5), (0.002, 0.9), (0.003, 0.6)], 1):
        result = {"trial_epoch": epoch, "score": score, "config": {"trial": {"number": 0, "point": {"lr": rate}}}}
        callback.on_trial_result(epoch, [trial], trial, result)
    kept = read_record(open_path(str(tmp_path)), 0)
    assert kept.best == {"trial_epoch": 2, "score": 0.9}
    assert kept.point == {"lr": 0.002}
