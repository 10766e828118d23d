"""The policy loss, each option against a case small enough to compute by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fer.grpo.loss import (
    EPSILON,
    Totals,
    advantages,
    importance,
    informative,
    policy_loss,
    token_logprobs,
)

MASK = torch.tensor([[True, True, True], [True, False, False]])
GAIN = torch.tensor([2.0, -1.0])


def loss_of(logp: torch.Tensor, old: torch.Tensor | None = None, **options: Any) -> Any:
    """Two completions, of three tokens and of one."""
    settings: dict[str, Any] = {"kind": "grpo", "clip_low": 0.2, "clip_high": 0.2, "beta": 0.0, "max_tokens": 10}
    reference = options.pop("reference", None)
    weight = options.pop("weight", MASK.float())
    totals = Totals(completions=2, tokens=4)
    old = logp.detach() if old is None else old
    return policy_loss(logp, old, reference, GAIN, MASK, weight, totals, **(settings | options))


def test_advantages() -> None:
    rewards = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    spread = math.sqrt(2)  # of 1 and 3, as a sample
    expected = torch.tensor([[-1 / (spread + EPSILON), 1 / (spread + EPSILON)], [0.0, 0.0]])
    torch.testing.assert_close(advantages(rewards, scale=True), expected)
    torch.testing.assert_close(advantages(rewards, scale=False), torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))


def test_a_group_of_equal_rewards_teaches_nothing() -> None:
    assert informative(torch.tensor([[1.0, 3.0], [5.0, 5.0]])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("grpo", -(2.0 - 1.0) / 2),  # each completion the mean of its tokens
        ("gspo", -(2.0 - 1.0) / 2),
        ("dapo", -(3 * 2.0 - 1.0) / 4),  # each token the same
        ("dr-grpo", -(3 * 2.0 - 1.0) / (2 * 10)),  # a fixed divisor
    ],
)
def test_on_policy(kind: str, expected: float) -> None:
    """On policy all ratios are 1: what is left is how tokens are averaged."""
    logp = torch.full((2, 3), -1.0, requires_grad=True)
    outcome = loss_of(logp, kind=kind)
    assert outcome.loss.item() == pytest.approx(expected)
    assert outcome.clipped == 0
    outcome.loss.backward()
    assert logp.grad is not None
    assert logp.grad[1, 1:].tolist() == [0, 0]  # padding
    assert logp.grad[0].lt(0).all()
    assert logp.grad[1, 0] > 0


def test_the_ratio_is_clipped() -> None:
    """A ratio of 1.5 with a gain counts 1.2, and 1.28 with DAPO's upper clip; with a loss it counts in full."""
    old = torch.full((2, 3), -1.0)
    logp = old + math.log(1.5)
    outcome = loss_of(logp, old)
    assert outcome.loss.item() == pytest.approx(-(2 * 1.2 - 1.5) / 2)
    assert outcome.clipped == 3
    assert loss_of(logp, old, clip_high=0.28).loss.item() == pytest.approx(-(2 * 1.28 - 1.5) / 2)


def test_gspo_s_ratio_is_the_completion_s() -> None:
    """Token ratios of e, 1 and 1/e make a geometric mean of 1: nothing is clipped, where GRPO would clip."""
    old = torch.zeros(2, 3)
    logp = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    assert loss_of(logp, old, kind="gspo").clipped == 0
    assert loss_of(logp, old, kind="gspo").loss.item() == pytest.approx(-0.5)
    assert loss_of(logp, old).clipped == 1


def test_kl_to_the_reference() -> None:
    """The k3 estimator, e^d - d - 1 with d the reference's log-probability less ours."""
    logp = torch.zeros(2, 3)
    outcome = loss_of(logp, reference=torch.full((2, 3), 0.5), beta=0.1)
    k3 = math.exp(0.5) - 0.5 - 1
    assert outcome.kl.item() == pytest.approx(4 * k3)
    assert outcome.loss.item() == pytest.approx(-0.5 + 0.1 * k3)
    assert loss_of(logp, reference=logp, beta=0.1).kl == 0


def test_importance_is_truncated() -> None:
    trainer = torch.log(torch.tensor([[0.5, 0.9, 0.2]]))
    engine = torch.log(torch.tensor([[0.5, 0.3, 0.4]]))
    mask = torch.tensor([[True, True, True]])
    torch.testing.assert_close(importance(trainer, engine, mask, cap=2.0), torch.tensor([[1.0, 2.0, 0.5]]))
    assert importance(trainer, engine, mask, cap=0).tolist() == [[1, 1, 1]]
    assert importance(trainer, engine, ~mask, cap=2.0).tolist() == [[0, 0, 0]]
    half = loss_of(torch.zeros(2, 3), weight=MASK * 0.5)
    assert half.loss.item() == pytest.approx(-0.25)


def test_banned_tokens_have_no_part_in_the_distribution() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    logp, entropy = token_logprobs(logits, torch.tensor([0, 1]), 1.0, torch.tensor([2]))
    assert logp[0].item() == pytest.approx(1 - math.log(math.exp(1) + math.exp(2)))
    assert logp[1].item() == pytest.approx(-math.log(2))
    assert entropy[1].item() == pytest.approx(math.log(2))


def test_temperature_divides_logits() -> None:
    logits, tokens, none = torch.randn(4, 9), torch.tensor([1, 2, 3, 4]), torch.empty(0, dtype=torch.long)
    cold, _ = token_logprobs(logits, tokens, 0.5, none)
    same, _ = token_logprobs(logits * 2, tokens, 1.0, none)
    torch.testing.assert_close(cold, same)
