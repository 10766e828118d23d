"""The jobs that `fer tune` can tune, by the name that a space uses in ``trains``."""

from __future__ import annotations

from fer.tuning.trainables.base import Training


def training_for(name: str) -> Training:
    """The training that a space names."""
    from fer.tuning.trainables.classifier import ClassifierTraining
    from fer.tuning.trainables.dynamics import DynamicsTraining

    known: dict[str, type[Training]] = {"classifier": ClassifierTraining, "dynamics": DynamicsTraining}
    return known[name]()
