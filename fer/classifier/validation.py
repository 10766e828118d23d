"""Validation metrics during training, from sums over the batches of all workers."""

from __future__ import annotations

import torch
from torch import Tensor

from fer.classifier.calibration import PLAIN, STEPS, best_temperature, count_confidences, sum_losses
from fer.classifier.data_loader import Batch
from fer.classifier.model import Outputs
from fer.classifier.reference import FINE, Reference, make_reference
from fer.classifier.spec import ModelSpec
from fer.training.checkpoint import TrainerState
from fer.training.worker import sum_over_workers

PROGRESS_METRICS = ("val_accuracy", "val_macro_f1", "val_ccc_valence", "val_ccc_arousal")


class ValidationMetrics:
    """Accumulates the model's outputs on the validation split. ``val_score`` selects the best checkpoint."""

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        self.spec, self.device = spec, device
        self.reference: Reference | None = None
        """Of the last `compute`; None for a model without an expression head."""
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        classes = len(self.spec.labels)
        self.confusion = self._zeros(classes, classes)
        self.losses = self._zeros(STEPS + 1)
        self.confidences = self._zeros(STEPS + 1, FINE)
        self.moments = self._zeros(6, 2)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Add a batch. Rows without valence and arousal count towards the expression metrics only."""
        if outputs.logits is not None:
            labels, classes = batch["label"].to(self.device), len(self.spec.labels)
            cells = labels * classes + outputs.logits.argmax(1)
            self.confusion += torch.bincount(cells, minlength=classes * classes).view(classes, classes)
            self.losses += sum_losses(outputs.logits, labels)
            self.confidences += count_confidences(outputs.logits)
        if outputs.valence_arousal is not None:
            true = batch["affect"].to(self.device)
            labelled = ~true.isnan().any(dim=1)
            x, y = true[labelled].double(), outputs.valence_arousal[labelled].double()
            self.moments += torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y]).sum(1)

    def compute(self) -> dict[str, float]:
        """The metrics over all workers, which are then reset. ``val_loss`` is plain cross-entropy at temperature 1."""
        metrics: dict[str, float] = {}
        if self.spec.has_expression:
            confusion, losses = sum_over_workers(self.confusion), sum_over_workers(self.losses)
            metrics |= expression_metrics(confusion, losses)
            metrics["val_score"] = metrics["val_accuracy"]
            confidences = sum_over_workers(self.confidences)[losses.argmin()]
            self.reference = make_reference(confusion.sum(0).int().tolist(), confidences.cpu().numpy())
        if self.spec.has_affect:
            valence, arousal = concordance(sum_over_workers(self.moments)).tolist()
            metrics |= {"val_ccc_valence": valence, "val_ccc_arousal": arousal}
            metrics.setdefault("val_score", (valence + arousal) / 2)
        self.reset()
        return metrics


def expression_metrics(confusion: Tensor, losses: Tensor) -> dict[str, float]:
    """Metrics of counts (true classes, predicted classes) and of the sums of `sum_losses`.

    Macro averages cover the classes that are in the data or among the predictions.
    """
    hits, support, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    seen = support + predicted > 0
    metrics = {
        "val_accuracy": hits.sum() / support.sum(),
        "val_macro_f1": (2 * hits / (support + predicted))[seen].mean(),
        "val_uar": (hits / support.clamp_min(1))[seen].mean(),
        "val_loss": losses[PLAIN] / support.sum(),
    }
    return {name: float(value) for name, value in metrics.items()} | {"val_temperature": best_temperature(losses)}


def concordance(moments: Tensor) -> Tensor:
    """Lin's concordance correlation coefficient per column, from the sums (6, columns) of 1, x, y, x², y² and xy."""
    rows = moments[0]
    mean_x, mean_y, square_x, square_y, product = moments[1:] / rows
    unbiased = rows / (rows - 1)
    variances = (square_x - mean_x**2 + square_y - mean_y**2) * unbiased
    return 2 * (product - mean_x * mean_y) * unbiased / (variances + (mean_x - mean_y) ** 2)


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
