"""The policy loss of GRPO and its variants, on log-probabilities of sampled tokens. Each variant is a few lines.

- GRPO: group-relative advantages, clipped ratios, mean over a completion's tokens, then over completions; KL divergence
  from a reference model by the k3 estimator (Shao et al., DeepSeekMath, arXiv 2402.03300).
- Dr. GRPO: advantages not divided by the group's standard deviation, and a constant divisor instead of each
  completion's length, which favours long wrong answers (Liu et al., arXiv 2503.20783).
- DAPO: a higher upper clip, and every token of the batch weighs the same (Yu et al., arXiv 2503.14476).
- GSPO: one ratio per completion, the geometric mean of its tokens' (Zheng et al., arXiv 2507.18071).
- Truncated importance sampling: engine and trainer compute slightly different probabilities of a token, and with
  asynchronous rollouts from different weights; each token is weighted by their ratio, at most ``cap`` (Espeholt et al.,
  IMPALA, arXiv 1802.01561).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-4
"""Added to a group's standard deviation before dividing by it."""


@dataclass(frozen=True)
class Totals:
    """Completions and completion tokens of a step over all batches and workers: the divisors of the loss."""

    completions: float
    tokens: float


@dataclass
class PolicyLoss:
    """A batch's share of the step's loss, and sums over its tokens for the log."""

    loss: Tensor
    clipped: Tensor
    """Number of tokens whose ratio was clipped."""
    kl: Tensor
    """Sum of the KL estimates; 0 without a reference."""


def group_advantages(rewards: Tensor, scale: bool) -> Tensor:
    """Rewards (prompts, G) less their group's mean; with ``scale`` divided by its standard deviation."""
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + EPSILON) if scale else centred


def has_signal(rewards: Tensor) -> Tensor:
    """Which groups (prompts, G) give a gradient: those whose rewards are not all equal. Bool (prompts)."""
    return (rewards != rewards[:, :1]).any(1)


def importance_weights(trainer: Tensor, engine: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Ratios (N, T) of the trainer's to the engine's probabilities, at most ``cap``; with a cap of 0 all are 1.

    ``trainer``, ``engine``: log-probabilities (N, T). Where ``mask`` is False the weight is 0.
    """
    if not cap:
        return mask.to(trainer.dtype)
    return torch.where(mask, trainer - engine, -torch.inf).exp().clamp(max=cap)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor,
    totals: Totals,
    *,
    loss_type: str,
    clip_ratio_low: float,
    clip_ratio_high: float,
    beta: float,
    max_tokens: int,
) -> PolicyLoss:
    """The loss of a batch of completions.

    ``logprobs``, ``old_logprobs``, ``ref_logprobs``: log-probabilities (N, T) of the tokens now, at the start of the
    step, and under the reference model. ``advantages`` (N). ``mask`` (N, T) bool: tokens of the completions.
    ``weights`` (N, T): importance weights.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    if loss_type == "gspo":
        mean = log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        # The value is the completion's ratio; the gradient flows through each token's own log-probability.
        log_ratio = torch.where(mask, mean.detach() + logprobs - logprobs.detach(), 0.0)
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1 - clip_ratio_low, 1 + clip_ratio_high)
    advantage = advantages[:, None]
    token_loss = -torch.minimum(ratio * advantage, clipped_ratio * advantage) * weights
    kl = torch.zeros_like(token_loss)
    if ref_logprobs is not None:
        difference = torch.where(mask, ref_logprobs - logprobs, 0.0)
        kl = difference.exp() - difference - 1
        token_loss = token_loss + beta * kl
    if loss_type == "dapo":
        share = mask / totals.tokens
    elif loss_type == "dr_grpo":
        share = mask / (max_tokens * totals.completions)
    else:
        share = mask / mask.sum(1, keepdim=True).clamp(min=1) / totals.completions
    with torch.no_grad():
        clipped = ((ratio * advantage > clipped_ratio * advantage) & mask).sum()
    return PolicyLoss((token_loss * share).sum(), clipped, (kl * mask).sum().detach())
