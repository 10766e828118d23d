"""Validation metrics during training, aggregated over all workers by torchmetrics."""

from __future__ import annotations

import torch
from torchmetrics import ConcordanceCorrCoef, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassRecall

from fer.classifier.calibration import TemperatureFit
from fer.classifier.data_loader import Batch
from fer.classifier.model import Outputs
from fer.classifier.spec import ModelSpec
from fer.training.checkpoint import TrainerState

PROGRESS_METRICS = ("val_accuracy", "val_macro_f1", "val_ccc_valence", "val_ccc_arousal")


class ValidationMetrics:
    """Accumulates the model's outputs on the validation split. ``val_score`` selects the best checkpoint."""

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        self.expression = self.affect = None
        self.calibration = TemperatureFit().to(device)
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

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Add a batch. Rows without valence and arousal count towards the expression metrics only."""
        if self.expression is not None and outputs.logits is not None:
            labels = batch["label"].to(self.device)
            self.expression.update(outputs.logits, labels)
            self.calibration.update(outputs.logits, labels)
        if self.affect is not None and outputs.valence_arousal is not None:
            true = batch["affect"].to(self.device)
            labelled = ~true.isnan().any(dim=1)
            if labelled.any():
                self.affect.update(outputs.valence_arousal[labelled], true[labelled])

    def compute(self) -> dict[str, float]:
        """The metrics over all workers, which are then reset. ``val_loss`` is plain cross-entropy at temperature 1."""
        metrics: dict[str, float] = {}
        if self.expression is not None:
            metrics |= {name: float(value) for name, value in self.expression.compute().items()}
            temperature, loss = self.calibration.compute()
            metrics |= {"val_loss": float(loss), "val_temperature": float(temperature)}
            metrics["val_score"] = metrics["val_accuracy"]
            self.expression.reset()
        if self.affect is not None:
            valence, arousal = self.affect.compute().tolist()
            metrics |= {"val_ccc_valence": valence, "val_ccc_arousal": arousal}
            metrics.setdefault("val_score", (valence + arousal) / 2)
            self.affect.reset()
        self.calibration.reset()
        return metrics


def progress_text(state: TrainerState, epochs: int, improved: bool) -> str:
    """The line that is printed after an epoch: its metrics, and the time that is left."""
    metrics = state.history[-1]
    validation = "  ".join(f"{name} {metrics[name]:.3f}" for name in PROGRESS_METRICS if name in metrics)
    if state.finished:
        outlook = f"stopped early: no improvement for {state.epochs_since_best} epochs"
    else:
        seconds = sum(entry["seconds"] for entry in state.history) / len(state.history)
        outlook = f"{(epochs - state.epoch) * seconds / 60:.1f} min left"
    return (
        f"epoch {state.epoch}/{epochs}  train_loss {metrics['train_loss']:.3f}  {validation}"
        f"{' *' if improved else ''}  {metrics['images_per_second']:.0f} img/s  "
        f"data wait {metrics['data_wait']:.1%}  {outlook}"
    )
