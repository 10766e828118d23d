"""Losses on soft or hard labels, the divergences of R-Drop and distillation, and a loss for valence and arousal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from fer.classifier.options import LOSSES, LossOptions

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits (N, classes) and target distributions (N, classes) to a scalar."""


def class_weights(counts: Mapping[str, int], labels: list[str]) -> Tensor:
    """Inverse-frequency class weights (classes,): rows / (classes x rows of the class); the mean over rows is 1.

    A class without rows has weight 0.
    """
    rows = torch.tensor([counts.get(label, 0) for label in labels], dtype=torch.float32)
    present = int((rows > 0).sum())
    return torch.where(rows > 0, rows.sum() / (present * rows.clamp_min(1)), torch.zeros(()))


def focal_loss(logits: Tensor, targets: Tensor, weight: Tensor | None, gamma: float) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) for soft targets: -sum t w (1 - p)^gamma log p, averaged over rows."""
    log_p = F.log_softmax(logits, dim=-1)
    # Where p rounds to 1, a gamma below 1 has an infinite slope.
    terms = targets * (-log_p.expm1()).clamp_min(1e-7).pow(gamma) * log_p
    if weight is not None:
        terms = terms * weight
    return -terms.sum(-1).mean()


def cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor | None, options: LossOptions) -> Tensor:
    """Cross-entropy with label smoothing."""
    return F.cross_entropy(logits, targets, weight=weight, label_smoothing=options.label_smoothing)


def smoothed_focal_loss(logits: Tensor, targets: Tensor, weight: Tensor | None, options: LossOptions) -> Tensor:
    """Focal loss on smoothed labels."""
    return focal_loss(logits, smooth(targets, options), weight, options.focal_gamma)


def bootstrap_loss(logits: Tensor, targets: Tensor, weight: Tensor | None, beta: float, hard: bool) -> Tensor:
    """Bootstrapping (Reed et al., ICLR workshop 2015): -sum (beta t + (1 - beta) b) log p, averaged over rows.

    The belief b is the probabilities p, through which the gradient flows too, or with ``hard`` the likeliest class. It
    counts against labels that the model finds unlikely, since they may be wrong.
    """
    log_p = F.log_softmax(logits, dim=-1)
    belief = F.one_hot(logits.argmax(-1), logits.shape[1]).float() if hard else log_p.exp()
    terms = (beta * targets + (1 - beta) * belief) * log_p
    if weight is not None:
        terms = terms * weight
    return -terms.sum(-1).mean()


def soft_bootstrap_loss(logits: Tensor, targets: Tensor, weight: Tensor | None, options: LossOptions) -> Tensor:
    """Bootstrapping with the model's probabilities; the paper's weight of the label is 0.95."""
    beta = 0.95 if options.bootstrap_beta is None else options.bootstrap_beta
    return bootstrap_loss(logits, smooth(targets, options), weight, beta, hard=False)


def hard_bootstrap_loss(logits: Tensor, targets: Tensor, weight: Tensor | None, options: LossOptions) -> Tensor:
    """Bootstrapping with the model's likeliest class; the paper's weight of the label is 0.8."""
    beta = 0.8 if options.bootstrap_beta is None else options.bootstrap_beta
    return bootstrap_loss(logits, smooth(targets, options), weight, beta, hard=True)


def smooth(targets: Tensor, options: LossOptions) -> Tensor:
    """Target distributions (N, classes) with a part of each spread over all classes."""
    return targets * (1 - options.label_smoothing) + options.label_smoothing / targets.shape[1]


def build_loss(options: LossOptions, weight: Tensor | None = None) -> Loss:
    """The loss that ``--loss`` selects, with optional class weights (classes,). Raises UserError."""
    return partial(LOSSES.load(options.loss), weight=weight, options=options)


def symmetric_divergence(one: Tensor, other: Tensor) -> Tensor:
    """The mean of both Kullback-Leibler divergences between the distributions of logits (N, classes), over rows.

    What R-Drop (Liang et al., NeurIPS 2021) adds for two passes of the same images.
    """
    p, q = F.log_softmax(one, dim=-1), F.log_softmax(other, dim=-1)
    return ((p.exp() - q.exp()) * (p - q)).sum(-1).mean() / 2


def distillation_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """The divergence of the softened model from the teacher's probabilities (N, classes) at the same temperature.

    Times the temperature's square, so that the gradients do not shrink with it (Hinton et al., 2015).
    """
    softened = F.log_softmax(logits / temperature, dim=-1)
    return F.kl_div(softened, taught, reduction="batchmean") * temperature**2


def affect_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Valence-arousal loss: mean squared error plus 1 - CCC (Lin, Biometrics 1989), averaged over the two.

    Both (N, 2). Rows with NaN in ``true`` are ignored; if all are, the loss is 0.
    """
    labelled = ~true.isnan().any(dim=1)
    if not labelled.any():
        return predicted.sum() * 0
    predicted, true = predicted[labelled], true[labelled]
    error = (predicted - true).square().mean(0)
    covariance = ((predicted - predicted.mean(0)) * (true - true.mean(0))).mean(0)
    variances = predicted.var(0, unbiased=False) + true.var(0, unbiased=False)
    concordance = 2 * covariance / (variances + (predicted.mean(0) - true.mean(0)).square()).clamp_min(1e-6)
    return (error + 1 - concordance).mean()
