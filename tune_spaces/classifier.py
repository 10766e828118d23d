"""The classifier: backbone, optimisation, loss and augmentation."""

from __future__ import annotations

from typing import Any

from ray import tune

from fer.tuning.space import Point, SearchSpace


def to_options(point: Point) -> dict[str, Any]:
    """A point as options of `fer train`."""
    geometric, photometric = point["geometric"], point["photometric"]
    mixing = point["mixing"]
    return {
        "backbone": point["backbone"],
        "img_size": point["img_size"],
        "batch_size": point["batch_size"],
        "lr": point["lr"],
        "weight_decay": point["weight_decay"],
        "scheduler": point["scheduler"],
        "loss": point["loss"],
        "focal_gamma": point["focal_gamma"],
        "label_smoothing": point["label_smoothing"],
        # One strength for geometric and one for photometric augmentation; 1 is the default of `fer train`.
        "rotate": 10 * geometric,
        "zoom": 0.1 * geometric,
        "shift": 0.05 * geometric,
        "brightness": 0.2 * photometric,
        "contrast": 0.2 * photometric,
        "random_erasing": point["random_erasing"],
        "mixup": point["mix_alpha"] if mixing in ("mixup", "both") else 0.0,
        "cutmix": point["mix_alpha"] if mixing in ("cutmix", "both") else 0.0,
    }


SPACE = SearchSpace(
    description="the expression classifier",
    trainable="classifier",
    metric="validation accuracy",
    params={
        "backbone": tune.choice(["resnet18", "resnet50", "convnext_tiny", "vit_small_patch16_224"]),
        "img_size": tune.choice([112, 160, 224]),
        "batch_size": tune.choice([32, 64, 128]),
        "lr": tune.loguniform(1e-5, 3e-3),
        "weight_decay": tune.loguniform(1e-5, 0.1),
        "scheduler": tune.choice(["cosine", "onecycle"]),
        "loss": tune.choice(["ce", "focal"]),
        "focal_gamma": tune.uniform(0.5, 3.0),
        "label_smoothing": tune.uniform(0.0, 0.2),
        "geometric": tune.uniform(0.0, 2.0),
        "photometric": tune.uniform(0.0, 2.0),
        "random_erasing": tune.uniform(0.0, 0.5),
        "mixing": tune.choice(["none", "mixup", "cutmix", "both"]),
        "mix_alpha": tune.uniform(0.1, 1.0),
    },
    default={
        "backbone": "resnet18",
        "img_size": 224,
        "batch_size": 64,
        "lr": 3e-4,
        "weight_decay": 1e-4,
        "scheduler": "cosine",
        "loss": "ce",
        "focal_gamma": 2.0,
        "label_smoothing": 0.0,
        "geometric": 1.0,
        "photometric": 1.0,
        "random_erasing": 0.0,
        "mixing": "none",
        "mix_alpha": 0.2,
    },
    to_options=to_options,
    search="tpe",
    scheduler="asha",
    num_trials=40,
    grace_period=3,
    reduction_factor=3,
    mutable=("lr", "weight_decay", "label_smoothing", "geometric", "photometric", "random_erasing"),
)
