"""The policy loss: each variant against a case that is small enough to compute by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fer.grpo.loss import EPSILON, Totals, group_advantages, has_signal, importance_weights, policy_loss

MASK = torch.tensor([[True, True, True], [True, False, False]])
ADVANTAGES = torch.tensor([2.0, -1.0])


def compute_loss(logprobs: torch.Tensor, old_logprobs: torch.Tensor | None = None, **options: Any) -> Any:
    """Two completions, of three tokens and of one."""
    defaults = {"loss_type": "grpo", "clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "beta": 0.0, "max_tokens": 10}
    ref_logprobs = options.pop("ref_logprobs", None)
    weights = options.pop("weights", MASK.float())
    totals = Totals(completions=2, tokens=4)
    old_logprobs = logprobs.detach() if old_logprobs is None else old_logprobs
    settings: dict[str, Any] = defaults | options
    return policy_loss(logprobs, old_logprobs, ref_logprobs, ADVANTAGES, MASK, weights, totals, **settings)


def test_advantages() -> None:
    rewards = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    std = math.sqrt(2)  # of 1 and 3
    expected = torch.tensor([[-1 / (std + EPSILON), 1 / (std + EPSILON)], [0.0, 0.0]])
    torch.testing.assert_close(group_advantages(rewards, scale=True), expected)
    torch.testing.assert_close(group_advantages(rewards, scale=False), torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))


def test_a_group_of_equal_rewards_has_no_signal() -> None:
    assert has_signal(torch.tensor([[1.0, 3.0], [5.0, 5.0]])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", -(2.0 - 1.0) / 2),  # mean over tokens, then over completions
        ("gspo", -(2.0 - 1.0) / 2),
        ("dapo", -(3 * 2.0 - 1.0) / 4),  # all tokens weigh the same
        ("dr_grpo", -(3 * 2.0 - 1.0) / (2 * 10)),  # a constant divisor
    ],
)
def test_on_policy(loss_type: str, expected: float) -> None:
    """On-policy all ratios are 1, and only the averaging over tokens differs."""
    logprobs = torch.full((2, 3), -1.0, requires_grad=True)
    outcome = compute_loss(logprobs, loss_type=loss_type)
    assert outcome.loss.item() == pytest.approx(expected)
    assert outcome.clipped == 0
    outcome.loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad[1, 1:].tolist() == [0, 0]  # padding
    assert logprobs.grad[0].lt(0).all()
    assert logprobs.grad[1, 0] > 0


def test_the_ratio_is_clipped() -> None:
    """A ratio of 1.5 counts as 1.2 if the advantage is positive (1.28 with DAPO's upper clip), else in full."""
    old = torch.full((2, 3), -1.0)
    logprobs = old + math.log(1.5)
    outcome = compute_loss(logprobs, old)
    assert outcome.loss.item() == pytest.approx(-(2 * 1.2 - 1.5) / 2)
    assert outcome.clipped == 3
    assert compute_loss(logprobs, old, clip_ratio_high=0.28).loss.item() == pytest.approx(-(2 * 1.28 - 1.5) / 2)


def test_gspo_has_one_ratio_per_completion() -> None:
    """Token ratios of e, 1 and 1/e have a geometric mean of 1: nothing is clipped, where GRPO clips."""
    old = torch.zeros(2, 3)
    logprobs = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    assert compute_loss(logprobs, old, loss_type="gspo").clipped == 0
    assert compute_loss(logprobs, old, loss_type="gspo").loss.item() == pytest.approx(-0.5)
    assert compute_loss(logprobs, old).clipped == 1


def test_kl_to_the_reference() -> None:
    """The k3 estimator, e^d - d - 1, with d the reference's log-probability minus the policy's."""
    logprobs = torch.zeros(2, 3)
    outcome = compute_loss(logprobs, ref_logprobs=torch.full((2, 3), 0.5), beta=0.1)
    k3 = math.exp(0.5) - 0.5 - 1
    assert outcome.kl.item() == pytest.approx(4 * k3)
    assert outcome.loss.item() == pytest.approx(-0.5 + 0.1 * k3)
    assert compute_loss(logprobs, ref_logprobs=logprobs, beta=0.1).kl == 0


def test_importance_weights_are_capped() -> None:
    trainer = torch.log(torch.tensor([[0.5, 0.9, 0.2]]))
    engine = torch.log(torch.tensor([[0.5, 0.3, 0.4]]))
    mask = torch.tensor([[True, True, True]])
    torch.testing.assert_close(importance_weights(trainer, engine, mask, cap=2.0), torch.tensor([[1.0, 2.0, 0.5]]))
    assert importance_weights(trainer, engine, mask, cap=0).tolist() == [[1, 1, 1]]
    assert importance_weights(trainer, engine, ~mask, cap=2.0).tolist() == [[0, 0, 0]]
    half = compute_loss(torch.zeros(2, 3), weights=MASK * 0.5)
    assert half.loss.item() == pytest.approx(-0.25)
