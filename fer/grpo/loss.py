"""The policy loss of GRPO and its descendants, on log-probabilities of sampled tokens. Each option is a few lines.

- GRPO: group-relative advantages, clipped ratios, mean over a completion's tokens, then over completions; KL to a
  reference by the k3 estimator (Shao et al., DeepSeekMath, arXiv 2402.03300).
- Dr. GRPO: advantages not divided by the group's spread, and a fixed divisor instead of each completion's length, which
  favours long wrong answers (Liu et al., arXiv 2503.20783).
- DAPO: a higher upper clip, and every token of the batch weighs the same (Yu et al., arXiv 2503.14476).
- GSPO: one ratio for a completion, the geometric mean of its tokens' (Zheng et al., arXiv 2507.18071).
- Truncated importance sampling: the engine that samples and the trainer that learns compute slightly different
  probabilities, and with overlap of different weights; each token is weighed by their ratio, at most ``cap`` (Espeholt
  et al., IMPALA, arXiv 1802.01561).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-4
"""Added to a group's standard deviation before dividing by it."""


@dataclass(frozen=True)
class Totals:
    """What a step learns from in all, over its batches and workers: completions and tokens with a say in the loss."""

    completions: float
    tokens: float


@dataclass
class PolicyLoss:
    """A batch's share of the step's loss, and sums over its tokens for the log."""

    loss: Tensor
    clipped: Tensor
    """Tokens whose ratio was clipped."""
    kl: Tensor
    """Sum of the KL estimates; 0 without a reference."""


def advantages(rewards: Tensor, scale: bool) -> Tensor:
    """Rewards (prompts, G) to advantages: less the group's mean; with ``scale`` divided by its standard deviation."""
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + EPSILON) if scale else centred


def informative(rewards: Tensor) -> Tensor:
    """Which groups (prompts, G) teach anything: those whose rewards are not all equal (DAPO's dynamic sampling)."""
    return (rewards != rewards[:, :1]).any(1)


def importance(trainer: Tensor, engine: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Weights (N, T) for the engine's probabilities being others than the trainer's, at most ``cap``; 0: all are 1."""
    if not cap:
        return mask.to(trainer.dtype)
    return torch.where(mask, trainer - engine, -torch.inf).exp().clamp(max=cap)


def policy_loss(
    logp: Tensor,
    old: Tensor,
    reference: Tensor | None,
    advantage: Tensor,
    mask: Tensor,
    weight: Tensor,
    totals: Totals,
    *,
    kind: str,
    clip_low: float,
    clip_high: float,
    beta: float,
    max_tokens: int,
) -> PolicyLoss:
    """The loss of a batch of completions.

    ``logp``, ``old``, ``reference``: log-probabilities (N, T) of the tokens now, when the step began, and by the
    reference model. ``advantage`` (N). ``mask`` (N, T) bool: tokens of the completions. ``weight`` (N, T): importance
    weights.
    """
    log_ratio = torch.where(mask, logp - old, 0.0)
    if kind == "gspo":
        mean = log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        # The value of the completion's ratio, and through each token's own probability its gradient.
        log_ratio = torch.where(mask, mean.detach() + logp - logp.detach(), 0.0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    gain = advantage[:, None]
    token_loss = -torch.minimum(ratio * gain, clipped * gain) * weight
    kl = torch.zeros_like(token_loss)
    if reference is not None:
        away = torch.where(mask, reference - logp, 0.0)
        kl = away.exp() - away - 1
        token_loss = token_loss + beta * kl
    if kind == "dapo":
        share = mask / totals.tokens
    elif kind == "dr-grpo":
        share = mask / (max_tokens * totals.completions)
    else:
        share = mask / mask.sum(1, keepdim=True).clamp(min=1) / totals.completions
    with torch.no_grad():
        cut = ((ratio * gain > clipped * gain) & mask).sum()
    return PolicyLoss((token_loss * share).sum(), cut, (kl * mask).sum().detach())


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float, banned: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (T) of sampled ``tokens`` (T) under ``logits`` (T, vocabulary), both float32.

    ``banned`` tokens are not sampled, so they have no part in the distribution.
    """
    scaled = (logits.float() / temperature).index_fill(-1, banned, -torch.inf)
    logp = -torch.nn.functional.cross_entropy(scaled, tokens, reduction="none")
    with torch.no_grad():
        entropy = torch.distributions.Categorical(logits=scaled).entropy()
    return logp, entropy
