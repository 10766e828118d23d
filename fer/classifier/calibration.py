"""Calibration by one temperature that divides the logits (Guo et al., ICML 2017), fitted on the validation split."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

STEPS = 64
LIMIT = 4.0


class TemperatureFit(Metric):
    """The temperature with the least cross-entropy, to about 4%, in constant memory and over all workers.

    The cross-entropy is summed at `STEPS` + 1 temperatures from 1 / `LIMIT` to `LIMIT`, evenly spaced in their logarithm.
    """

    rows: Tensor
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(STEPS + 1, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add logits (N, classes) and class indices (N,)."""
        scaled = logits.float()[None] / temperatures(logits.device)[:, None, None]
        expanded = labels.expand(len(scaled), -1)
        self.sums += F.cross_entropy(scaled.flatten(0, 1), expanded.flatten(), reduction="none").view(
            expanded.shape
        ).sum(1)
        self.rows += len(labels)

    def compute(self) -> tuple[Tensor, Tensor]:
        """The best temperature, and the mean cross-entropy at temperature 1."""
        return temperatures(self.sums.device)[self.sums.argmin()], self.sums[STEPS // 2] / self.rows


def temperatures(device: torch.device) -> Tensor:
    """The candidates (`STEPS` + 1,); the middle one is 1."""
    return torch.logspace(-1, 1, STEPS + 1, base=LIMIT, device=device)
