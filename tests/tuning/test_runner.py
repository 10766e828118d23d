"""What a resumed sweep refuses, and the points that it goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer.errors import UserError
from fer.training.run import RunFolder
from fer.tuning import runner
from fer.tuning.options import TuneConfig
from fer.tuning.sweep import plan_sweep
from jobs.tune import find_space


def test_a_sweep_is_not_resumed_with_other_data(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "concurrent_trials", lambda *_: 1)
    config = TuneConfig(space="classifier_cpu", data=str(small_shards), storage=str(tmp_path), name="faces")
    RunFolder(config, "tune", "x").update(data_hash="of other rows")
    with pytest.raises(UserError, match="the data of sweep 'faces' has changed since it started: choose another"):
        runner.run_sweep(plan_sweep(config, find_space("classifier_cpu"), {}, []), [])
