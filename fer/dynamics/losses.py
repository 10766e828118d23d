"""Training losses: mean squared error, or an ordinal loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fer.dynamics.scores import SCORES

ScoreLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps estimated and true scores, each (N, 2) in levels, to a scalar."""

STEEPNESS = 4.0
"""Slope of the logistic function, per level: half a level beyond a threshold, its probability is 88%."""


def build_score_loss(name: Literal["mse", "ordinal"]) -> ScoreLoss:
    return F.mse_loss if name == "mse" else ordinal_loss


def ordinal_loss(estimated: Tensor, true: Tensor) -> Tensor:
    """The all-threshold logistic loss (Rennie and Srebro, 2005), mean over rows and scores.

    Each threshold, half-way between two levels, is a binary classification whose logit is the signed distance of the
    estimate from it. Estimates stay on the scale of the levels.
    """
    losses = []
    for column, top in enumerate(SCORES.values()):
        thresholds = torch.arange(top, device=estimated.device) + 0.5
        target = torch.where(true[:, column, None] > thresholds, 1.0, -1.0)
        logits = STEEPNESS * (estimated[:, column, None] - thresholds)
        losses.append(F.softplus(-target * logits).sum(dim=1))
    return torch.stack(losses).mean()
