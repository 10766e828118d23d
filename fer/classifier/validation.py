"""Validation figures during training, over all workers (torchmetrics gathers them)."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torchmetrics import ConcordanceCorrCoef, MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassRecall

from fer.classifier.data_loader import Batch
from fer.classifier.model import ModelSpec, Outputs


class ValidationMetrics:
    """Adds up what the model says of the validation split. ``val_score`` is what the best checkpoint is chosen by."""

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        self.expression = self.affect = None
        self.loss = MeanMetric().to(device)
        classes = len(spec.labels)
        if spec.options.head != "valence-arousal":
            self.expression = MetricCollection(
                {
                    "val_accuracy": MulticlassAccuracy(classes, average="micro"),
                    "val_macro_f1": MulticlassF1Score(classes, average="macro"),
                    "val_uar": MulticlassRecall(classes, average="macro"),
                }
            ).to(device)
        if spec.options.head != "classification":
            self.affect = ConcordanceCorrCoef(num_outputs=2).to(device)
        self.device = device

    @property
    def shown(self) -> tuple[str, ...]:
        """Names of the figures for a progress line."""
        return ("val_accuracy", "val_macro_f1", "val_ccc_valence", "val_ccc_arousal")

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Add a batch. Rows without valence and arousal count for the expression alone."""
        if self.expression is not None and outputs.logits is not None:
            labels = batch["label"].to(self.device)
            self.expression.update(outputs.logits, labels)
            self.loss.update(F.cross_entropy(outputs.logits, labels, reduction="none"))
        if self.affect is not None and outputs.valence_arousal is not None:
            true = batch["affect"].to(self.device)
            labelled = ~true.isnan().any(dim=1)
            if labelled.any():
                self.affect.update(outputs.valence_arousal[labelled], true[labelled])

    def compute(self) -> dict[str, float]:
        """The figures over all workers; begins anew. ``val_loss`` is plain cross-entropy, whatever is trained with."""
        figures: dict[str, float] = {}
        if self.expression is not None:
            figures |= {name: float(value) for name, value in self.expression.compute().items()}
            figures["val_loss"] = float(self.loss.compute())
            figures["val_score"] = figures["val_accuracy"]
            self.expression.reset()
        if self.affect is not None:
            valence, arousal = self.affect.compute().tolist()
            figures |= {"val_ccc_valence": valence, "val_ccc_arousal": arousal}
            figures.setdefault("val_score", (valence + arousal) / 2)
            self.affect.reset()
        self.loss.reset()
        return figures
