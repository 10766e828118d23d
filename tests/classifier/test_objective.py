"""What a step minimises, with a teacher and R-Drop on and off."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fer.classifier.losses import distillation_loss, symmetric_divergence
from fer.classifier.model import Outputs
from fer.classifier.objective import Objective
from fer.classifier.options import TrainConfig

LABELS = torch.tensor([0, 2])
TARGETS = F.one_hot(LABELS, 3).float()
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0]])
OTHERS = torch.tensor([[1.0, 0.3, -0.5], [0.1, 0.9, 0.4]])
TAUGHT = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]])
IMAGES = torch.arange(8.0).view(2, 1, 2, 2)
UNLABELLED = torch.full((2, 2), float("nan"))


def objective(teacher: Any = None, **options: Any) -> Objective:
    return Objective(TrainConfig(data="d", **options), teacher=teacher)


def loss_of(found: Objective, logits: Tensor) -> float:
    return found(Outputs(logits, None), found.prepare(IMAGES, LABELS, TARGETS, UNLABELLED)).item()


def test_without_a_method_it_is_the_loss() -> None:
    assert loss_of(objective(), LOGITS) == pytest.approx(F.cross_entropy(LOGITS, LABELS).item())


def test_r_drop_gives_every_row_twice_and_adds_the_divergence_of_the_two() -> None:
    found = objective(r_drop=2.0)
    inputs = found.prepare(IMAGES, LABELS, TARGETS, UNLABELLED)
    torch.testing.assert_close(inputs.images, torch.cat([IMAGES, IMAGES]))
    assert inputs.labels.tolist() == [0, 2, 0, 2]
    both = (F.cross_entropy(LOGITS, LABELS) + F.cross_entropy(OTHERS, LABELS)) / 2
    expected = both + 2 * symmetric_divergence(LOGITS, OTHERS)
    assert loss_of(found, torch.cat([LOGITS, OTHERS])) == pytest.approx(expected.item())


def test_the_teacher_takes_its_part_of_the_loss() -> None:
    found = objective(lambda images: TAUGHT, teacher_weight=0.3, teacher_temperature=2.0)
    expected = 0.7 * F.cross_entropy(LOGITS, LABELS) + 0.3 * distillation_loss(LOGITS, TAUGHT, 2.0)
    assert loss_of(found, LOGITS) == pytest.approx(expected.item())


def test_the_teacher_sees_a_row_once_with_r_drop() -> None:
    seen = []

    def teacher(images: Tensor) -> Tensor:
        seen.append(len(images))
        return TAUGHT

    taught = objective(teacher, r_drop=1.0).prepare(IMAGES, LABELS, TARGETS, UNLABELLED).taught
    assert seen == [2]
    assert taught is not None
    assert len(taught) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"head": "valence-arousal", "r_drop": 1.0},
        {"head": "valence-arousal", "teacher": ["a"]},
        {"margin": "arcface", "teacher": ["a"]},
    ],
)
def test_what_does_not_fit_together_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--teacher"):
        TrainConfig(data="d", **options)
