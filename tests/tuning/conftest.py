"""A small search space."""

from __future__ import annotations

import pytest
from ray import tune

from fer.tuning.space import SearchSpace


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    return SearchSpace(
        description="a test",
        trainable="classifier",
        metric="nothing",
        params={"lr": tune.loguniform(1e-4, 1e-2), "loss": tune.choice(["ce", "focal"]), "layers": tune.randint(1, 5)},
        default={"lr": 1e-3, "loss": "ce", "layers": 2},
    )
