"""Calibration by one temperature that divides the logits (Guo et al., ICML 2017), fitted on the validation split."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fer.classifier.reference import FINE

STEPS = 64
LIMIT = 4.0
PLAIN = STEPS // 2
"""Index of temperature 1 in `temperatures`."""


def temperatures(device: torch.device) -> Tensor:
    """The candidates (`STEPS` + 1,), from 1 / `LIMIT` to `LIMIT`, evenly spaced in their logarithm: 4% apart."""
    return torch.logspace(-1, 1, STEPS + 1, base=LIMIT, device=device)


def sum_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy at each temperature (`STEPS` + 1,) float64, summed over logits (N, classes) and labels (N,).

    The sums of batches and of workers can be added.
    """
    scaled = logits.float()[None] / temperatures(logits.device)[:, None, None]
    expanded = labels.expand(len(scaled), -1)
    losses = F.cross_entropy(scaled.flatten(0, 1), expanded.flatten(), reduction="none")
    return losses.view(expanded.shape).sum(1, dtype=torch.float64)


def count_confidences(logits: Tensor) -> Tensor:
    """How many of the logits (N, classes) have a confidence in each of `FINE` bins, at each temperature.

    (`STEPS` + 1, `FINE`) int64; the counts of batches and of workers can be added.
    """
    scaled = logits.float()[None] / temperatures(logits.device)[:, None, None]
    bins = (scaled.softmax(2).amax(2) * FINE).long().clamp_(max=FINE - 1)
    steps = torch.arange(STEPS + 1, device=logits.device)[:, None]
    return torch.bincount((bins + steps * FINE).flatten(), minlength=(STEPS + 1) * FINE).view(STEPS + 1, FINE)


def best_temperature(losses: Tensor) -> float:
    """The temperature with the least cross-entropy; ``losses`` are those of `sum_losses`."""
    return float(temperatures(losses.device)[losses.argmin()])
