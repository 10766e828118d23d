"""The trainables by name; a search space names one in ``trainable``."""

from __future__ import annotations

from fer.tuning.trainables.base import Trainable


def get_trainable(name: str) -> Trainable:
    from fer.tuning.trainables.classifier import ClassifierTrainable
    from fer.tuning.trainables.dynamics import DynamicsTrainable

    trainables: dict[str, type[Trainable]] = {"classifier": ClassifierTrainable, "dynamics": DynamicsTrainable}
    return trainables[name]()
