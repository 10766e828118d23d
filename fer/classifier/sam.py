"""Sharpness-aware minimisation (Foret et al., ICLR 2021): minima whose whole neighbourhood has a low loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SAM:
    """Replaces the gradient of an optimizer step by that at the highest point nearby, w + rho g / |g|.

    The gradient g is that of the whole step: of all accumulated batches, and of all workers, since the first passes
    end with the usual all-reduce. So every worker moves its weights alike. A loss scale cancels out.
    """

    def __init__(self, model: nn.Module, rho: float) -> None:
        self.model, self.rho = model, rho

    def repeat(self, passes: Sequence[Callable[[], Tensor]]) -> None:
        """Run the forward and backward passes of a step again at the moved weights, which are then restored.

        Nothing with rho 0, or if the gradient is not finite, in which case the loss scaler skips the step.
        """
        if not self.rho:
            return
        moving = [(each, each.grad) for each in self.model.parameters() if each.grad is not None]
        norm = torch.nn.utils.get_total_norm([gradient for _, gradient in moving])
        if not norm.isfinite() or not norm:
            return
        before = [weight.detach().clone() for weight, _ in moving]
        with torch.no_grad():
            for weight, gradient in moving:
                weight.add_(gradient * (self.rho / norm))
        self.model.zero_grad(set_to_none=True)
        with kept_statistics(self.model):
            for forward_backward in passes:
                forward_backward()
        with torch.no_grad():
            for (weight, _), kept in zip(moving, before, strict=True):
                weight.copy_(kept)


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """BatchNorm's running statistics do not change inside the block: they describe the weights that are kept."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
