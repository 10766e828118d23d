"""What training minimises: the squared error of the scores, or a loss that knows only their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fer.dynamics.scores import SCORES

Loss = Callable[[Tensor, Tensor], Tensor]
"""Estimated and true scores, each (N, 2) in levels, to a scalar."""

STEEPNESS = 4.0
"""How quickly an answer becomes certain, per level; at 4, half a level beyond a border is 88% certain."""


def build_loss(name: Literal["mse", "ordinal"]) -> Loss:
    return F.mse_loss if name == "mse" else ordinal_loss


def ordinal_loss(estimated: Tensor, true: Tensor) -> Tensor:
    """The all-threshold logistic loss (Rennie and Srebro, 2005), mean over rows and scores.

    Each border between two levels, half-way between them, is a yes-or-no question that the estimate answers by the side
    on which it lies, and the more clearly the farther away. Estimates stay on the scale of the levels.
    """
    losses = []
    for column, top in enumerate(SCORES.values()):
        borders = torch.arange(top, device=estimated.device) + 0.5
        above = torch.where(true[:, column, None] > borders, 1.0, -1.0)
        distance = STEEPNESS * (estimated[:, column, None] - borders)
        losses.append(F.softplus(-above * distance).sum(dim=1))
    return torch.stack(losses).mean()
