"""The scorer of facial dynamics: the widths of its two paths, and how its five stages are trained."""

from __future__ import annotations

from typing import Any

from ray import tune

from fer.tuning.space import Point, Space


def options(point: Point) -> dict[str, Any]:
    """What a point means to `fer dynamics`."""
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


SPACE = Space(
    purpose="the scorer of facial dynamics and synkinesis",
    trains="dynamics",
    optimises="mean quadratic weighted kappa of dynamics and synkinesis on the validation videos",
    vary={
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
    options=options,
    search="tpe",
    scheduler="asha",
    num_trials=24,
    grace=1,  # after stage 1, by the flow net alone; then after stage 2b, by the landmark net alone
    reduction=3,
)
