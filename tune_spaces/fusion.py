"""The dynamics model: widths of its two branches, loss, and the learning rate of each of its five stages."""

from __future__ import annotations

from typing import Any

from ray import tune

from fer.tuning.space import Point, SearchSpace


def to_options(point: Point) -> dict[str, Any]:
    """A point as options of `fer dynamics`."""
    width = point["flow_width"]
    return {
        "backbone": "resnet18",
        "model_kwargs": {"channels": [width * times for times in (1, 2, 4, 8)], "drop_rate": point["dropout"]},
        "hidden": point["landmark_width"],
        "loss": point["loss"],
        "batch_size": point["batch_size"],
        "weight_decay": point["weight_decay"],
        "stage_1": {"lr": point["lr_flow"]},
        "stage_2a": {"lr": point["lr_mlp"]},
        "stage_2b": {"lr": point["lr_landmarks"]},
        "stage_3": {"lr": point["lr_fusion"]},
        "stage_4": {"lr": point["lr_all"]},
    }


SPACE = SearchSpace(
    description="the model of facial dynamics and synkinesis",
    trainable="dynamics",
    metric="mean quadratic weighted kappa of dynamics and synkinesis on the validation videos",
    params={
        "flow_width": tune.choice([8, 16, 32, 64]),
        "landmark_width": tune.choice([16, 32, 64, 128]),
        "dropout": tune.uniform(0.0, 0.5),
        "loss": tune.choice(["mse", "ordinal"]),
        "batch_size": tune.choice([16, 32, 64]),
        "weight_decay": tune.loguniform(1e-4, 0.1),
        "lr_flow": tune.loguniform(1e-4, 1e-2),
        "lr_mlp": tune.loguniform(1e-3, 0.1),
        "lr_landmarks": tune.loguniform(1e-4, 1e-2),
        "lr_fusion": tune.loguniform(1e-3, 0.1),
        "lr_all": tune.loguniform(1e-6, 1e-3),
    },
    default={
        "flow_width": 64,
        "landmark_width": 64,
        "dropout": 0.0,
        "loss": "mse",
        "batch_size": 32,
        "weight_decay": 0.01,
        "lr_flow": 1e-3,
        "lr_mlp": 0.01,
        "lr_landmarks": 1e-3,
        "lr_fusion": 0.01,
        "lr_all": 1e-4,
    },
    to_options=to_options,
    search="tpe",
    scheduler="asha",
    num_trials=24,
    # After stage 2b, which scores by the landmark branch alone. Stage 1, the flow branch, says less: see docs/tune.md.
    grace_period=3,
    reduction_factor=3,
)
