"""Validation metrics during training, and the progress line of an epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from fer.dynamics.losses import ScoreLoss
from fer.dynamics.metrics import compute_metrics
from fer.dynamics.scores import SCORES
from fer.training.checkpoint import TrainerState


def validation_metrics(loss: ScoreLoss, estimated: Tensor, true: Tensor) -> dict[str, float]:
    """``val_loss``, and MSE, kappa and accuracy of each score; ``estimated`` and ``true`` are (N, 2) in levels."""
    metrics = {"val_loss": float(loss(estimated, true))}
    for column, (score, top) in enumerate(SCORES.items()):
        clipped = torch.clip(estimated[:, column], 0, top)
        values = compute_metrics(true[:, column].numpy(), clipped.numpy(), top)
        metrics |= {f"val_{score}_{name}": values[name] for name in ("mse", "kappa", "accuracy")}
    return metrics


def progress_text(state: TrainerState, epochs: int, improved: bool) -> str:
    """The line that is printed after an epoch."""
    metrics = state.history[-1]
    mse = "  ".join(f"{score} {metrics[f'val_{score}_mse']:.3f}" for score in SCORES)
    return (
        f"stage {state.stage}  epoch {state.epoch}/{epochs}  train_loss {metrics['train_loss']:.3f}  "
        f"val_loss {metrics['val_loss']:.3f}  mse: {mse}{' *' if improved else ''}"
        + (f"  stopped early: no improvement for {state.epochs_since_best} epochs" if state.finished else "")
    )
