"""The classifier on a few CPU cores: the space `classifier` with narrow networks and small images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray import tune

from fer.tuning.space import Point
from tune_spaces import classifier

NETWORKS: dict[str, dict[str, Any]] = {
    "narrow": {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]},
    "wide": {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]},
    "deep": {"layers": [1, 2, 2, 2], "channels": [16, 32, 64, 128]},
}


def to_options(point: Point) -> dict[str, Any]:
    """A point as options of `fer train`."""
    network = {"backbone": "resnet18", "model_kwargs": NETWORKS[point["backbone"]] | {"zero_init_last": False}}
    return classifier.to_options(point) | network | {"in_chans": 1}


SPACE = replace(
    classifier.SPACE,
    description="the expression classifier, small enough for a few CPU cores",
    params={
        **classifier.SPACE.params,
        "backbone": tune.choice(list(NETWORKS)),
        "img_size": tune.choice([40, 48, 64]),
        "lr": tune.loguniform(1e-4, 1e-2),
    },
    default=classifier.SPACE.default | {"backbone": "narrow", "img_size": 48},
    to_options=to_options,
    num_trials=16,
)
