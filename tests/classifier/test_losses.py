"""Losses against hand-computed cases and against torch's own."""

import math

import pytest
import torch
from torch.nn import functional as F

from fer.classifier.losses import (
    affect_loss,
    bootstrap_loss,
    build_loss,
    class_weights,
    distillation_loss,
    focal_loss,
    symmetric_divergence,
)
from fer.classifier.options import LossOptions

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0]])
HARD = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])


def test_focal_loss_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.8, 0.2]]))
    assert focal_loss(logits, torch.tensor([[1.0, 0.0]]), None, gamma=2).item() == pytest.approx(
        -(0.2**2) * math.log(0.8)
    )
    weighted = focal_loss(logits, torch.tensor([[1.0, 0.0]]), torch.tensor([3.0, 1.0]), gamma=2)
    assert weighted.item() == pytest.approx(-3 * (0.2**2) * math.log(0.8))


def test_focal_without_focus_is_cross_entropy() -> None:
    for smoothing in (0.0, 0.1):
        focal = build_loss(LossOptions(loss="focal", focal_gamma=0, label_smoothing=smoothing))
        assert focal(LOGITS, HARD).item() == pytest.approx(
            F.cross_entropy(LOGITS, HARD, label_smoothing=smoothing).item(), rel=1e-6
        )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_of_a_sure_model_is_that_of_double_precision(gamma: float) -> None:
    """From a lead of 17 on, p rounds to 1 in single precision: for the label, and for another class."""
    leads = torch.tensor([0.0, 2.0, 8.0, 16.0, 17.0, 25.0])
    logits = torch.stack([leads, torch.zeros(6), torch.zeros(6)], dim=1).repeat(2, 1).requires_grad_()
    targets = F.one_hot(torch.tensor([0] * 6 + [1] * 6), 3).float()
    loss = focal_loss(logits, targets, None, gamma)
    loss.backward()
    exact = logits.detach().double().requires_grad_()
    p = exact.softmax(1)
    expected = -(targets * (1 - p) ** gamma * p.log()).sum(1).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert logits.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-4, atol=1e-7)


def test_bootstrapping_by_hand() -> None:
    """The model says class 0 with 0.8, the label class 1."""
    likely, unlikely = math.log(0.8), math.log(0.2)
    logits, targets = torch.tensor([[likely, unlikely]]), torch.tensor([[0.0, 1.0]])
    soft, hard = (build_loss(LossOptions(loss=f"bootstrap-{kind}")) for kind in ("soft", "hard"))
    assert soft(logits, targets).item() == pytest.approx(
        -(0.95 * unlikely + 0.05 * (0.8 * likely + 0.2 * unlikely)), rel=1e-6
    )
    assert hard(logits, targets).item() == pytest.approx(-(0.8 * unlikely + 0.2 * likely), rel=1e-6)
    weighted = bootstrap_loss(logits, targets, torch.tensor([3.0, 1.0]), beta=0.8, hard=True)
    assert weighted.item() == pytest.approx(-(0.8 * unlikely + 3 * 0.2 * likely), rel=1e-6)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_bootstrapping_that_believes_the_label_alone_is_cross_entropy(kind: str) -> None:
    loss = build_loss(LossOptions(loss=f"bootstrap-{kind}", bootstrap_beta=1, label_smoothing=0.1))
    expected = F.cross_entropy(LOGITS, HARD, label_smoothing=0.1)
    assert loss(LOGITS, HARD).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_gradient_of_soft_bootstrapping_flows_through_the_belief() -> None:
    """With the belief alone, the loss is the entropy -sum p log p, whose gradient is -p (log p + entropy)."""
    logits = LOGITS.clone().requires_grad_()
    bootstrap_loss(logits, HARD, None, beta=0.0, hard=False).backward()
    log_p = LOGITS.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1, keepdim=True)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, -log_p.exp() * (log_p + entropy) / 2)


def test_the_divergence_of_two_passes_by_hand() -> None:
    one, other = torch.log(torch.tensor([[0.8, 0.2]])), torch.log(torch.tensor([[0.5, 0.5]]))
    there = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    back = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    assert symmetric_divergence(one, other).item() == pytest.approx((there + back) / 2, rel=1e-6)
    assert symmetric_divergence(one, one).item() == 0


def test_distillation_by_hand() -> None:
    """Probabilities 0.8 and 0.2 become 2/3 and 1/3 at temperature 2."""
    logits = torch.log(torch.tensor([[0.8, 0.2]]))
    divergence = 0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))
    found = distillation_loss(logits, torch.tensor([[0.5, 0.5]]), temperature=2)
    assert found.item() == pytest.approx(4 * divergence, rel=1e-6)


def test_class_weights_are_those_of_the_six_class_model() -> None:
    counts = {"anger": 3328, "disgust": 514, "fear": 3363, "happy": 5962, "sad": 3956, "surprised": 2760}
    weights = dict(zip(counts, class_weights(counts, list(counts)).tolist(), strict=True))
    assert weights["disgust"] == pytest.approx(6.5, abs=0.1)
    assert weights["happy"] == pytest.approx(0.56, abs=0.01)


def test_a_class_without_rows_has_no_weight() -> None:
    assert class_weights({"a": 2, "b": 2}, ["a", "b", "c"]).tolist() == [1, 1, 0]


def test_affect_loss_is_zero_only_for_the_truth() -> None:
    true = torch.tensor([[0.1, -0.5], [0.7, 0.2], [-0.3, 0.9]])
    assert affect_loss(true, true).item() == pytest.approx(0, abs=1e-5)
    assert affect_loss(true + 0.2, true) > 0.04
    assert affect_loss(-true, true) > affect_loss(true * 0.5, true)


def test_unlabelled_rows_give_no_gradient() -> None:
    predicted = torch.zeros(3, 2, requires_grad=True)
    true = torch.tensor([[0.5, 0.5], [float("nan")] * 2, [-0.5, 0.1]])
    affect_loss(predicted, true).backward()
    assert predicted.grad is not None
    assert predicted.grad[1].abs().sum() == 0
    assert affect_loss(torch.zeros(1, 2, requires_grad=True), true[1:2]).item() == 0
