"""What a training step minimises: the heads' losses, with a teacher and R-Drop if they are on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fer.classifier.losses import affect_loss, build_loss, distillation_loss, symmetric_divergence
from fer.classifier.model import Outputs
from fer.classifier.options import TrainConfig
from fer.classifier.teacher import Teacher
from fer.classifier.unlabelled import PseudoLabels


class Inputs(NamedTuple):
    """A batch as the network and the losses take it."""

    images: Tensor
    """(N, C, H, W), normalised and augmented."""
    labels: Tensor
    """(N,) int64, for margin heads."""
    targets: Tensor
    """(N, classes): the distributions of the labels."""
    affect: Tensor
    """(N, 2): valence and arousal, NaN if unlabelled."""
    taught: Tensor | None = None
    """(N, classes): the teacher's softened probabilities."""
    pseudo: PseudoLabels | None = None
    """Of unlabelled images, which follow the N in ``images``."""


class Objective:
    """The training loss; ``weight`` (classes,) are class weights."""

    def __init__(self, config: TrainConfig, weight: Tensor | None = None, teacher: Teacher | None = None) -> None:
        self.config, self.teacher = config, teacher
        self.loss = build_loss(config, weight)

    def prepare(self, images: Tensor, labels: Tensor, targets: Tensor, affect: Tensor) -> Inputs:
        """The batch with what the teacher says of it; for R-Drop, which compares two passes, with each row twice."""
        taught = None if self.teacher is None else self.teacher(images)
        if self.config.r_drop:
            images, labels, targets, affect = twice(images), twice(labels), twice(targets), twice(affect)
            taught = None if taught is None else twice(taught)
        return Inputs(images, labels, targets, affect, taught)

    def __call__(self, outputs: Outputs, inputs: Inputs) -> Tensor:
        """The sum of the heads' losses, a scalar."""
        losses = []
        if outputs.logits is not None:
            losses.append(self._expression_loss(outputs.logits[: len(inputs.labels)], inputs))
        if inputs.pseudo is not None and outputs.logits is not None:
            losses.append(inputs.pseudo.loss(outputs.logits[len(inputs.labels) :]))
        if outputs.valence_arousal is not None:
            losses.append(affect_loss(outputs.valence_arousal, inputs.affect))
        return torch.stack(losses).sum()

    def _expression_loss(self, logits: Tensor, inputs: Inputs) -> Tensor:
        config = self.config
        loss = self.loss(logits, inputs.targets)
        if inputs.taught is not None:
            distilled = distillation_loss(logits, inputs.taught, config.teacher_temperature)
            loss = (1 - config.teacher_weight) * loss + config.teacher_weight * distilled
        if config.r_drop:
            loss = loss + config.r_drop * symmetric_divergence(*logits.chunk(2))
        return loss


def twice(rows: Tensor) -> Tensor:
    """All rows (N, ...), and all of them again (2 N, ...)."""
    return torch.cat([rows, rows])
