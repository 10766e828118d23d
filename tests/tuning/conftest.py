"""A small search space, and records of trials in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
from ray import tune

from fer.tuning.space import SearchSpace
from fer.tuning.trial_record import TrialRecord


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    return SearchSpace(
        description="a test",
        trainable="classifier",
        metric="nothing",
        params={"lr": tune.loguniform(1e-4, 1e-2), "loss": tune.choice(["ce", "focal"]), "layers": tune.randint(1, 5)},
        default={"lr": 1e-3, "loss": "ce", "layers": 2},
    )


@pytest.fixture(scope="session")
def record(space: SearchSpace) -> Callable[..., TrialRecord]:
    """Makes the record of a trial at the default point, with changes, that had these scores."""

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
