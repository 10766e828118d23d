"""Validation metrics: equal to those of torchmetrics, over batches of any size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchmetrics import ConcordanceCorrCoef, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassRecall

from fer.classifier.model import Outputs, new_spec
from fer.classifier.options import ModelOptions
from fer.classifier.validation import ValidationMetrics
from fer.labels import SPACES


def make_metrics(head: str) -> ValidationMetrics:
    spec = new_spec(ModelOptions(backbone="test_resnet", img_size=32, head=head), SPACES["rafdb"])
    return ValidationMetrics(spec, torch.device("cpu"))


def split_rows(rows: int) -> list[Tensor]:
    return list(torch.arange(rows).split(37))


@pytest.mark.parametrize("classes", [7, 5])
def test_expression_metrics_are_those_of_torchmetrics(classes: int) -> None:
    """With five classes in the data, one class is only predicted, and one is neither in the data nor predicted."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (500,), generator=random)
    logits = torch.randn(500, 7, generator=random) + 2 * torch.nn.functional.one_hot(labels, 7)
    logits[:, classes + 1 :] = -9
    ours = make_metrics("classification")
    theirs = MetricCollection(
        {
            "val_accuracy": MulticlassAccuracy(7, average="micro"),
            "val_macro_f1": MulticlassF1Score(7, average="macro"),
            "val_uar": MulticlassRecall(7, average="macro"),
        }
    )
    for part in split_rows(500):
        ours.update(Outputs(logits[part], None), {"label": labels[part]})
        theirs.update(logits[part], labels[part])
    metrics = ours.compute()
    for name, value in theirs.compute().items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-6)
    assert metrics["val_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-6)
    assert metrics["val_score"] == metrics["val_accuracy"]


def test_concordance_is_that_of_torchmetrics() -> None:
    random = torch.Generator().manual_seed(0)
    truth = torch.rand(500, 2, generator=random) * 2 - 1
    estimated = (truth * 0.6 + 0.1 + 0.3 * torch.randn(500, 2, generator=random)).clamp(-1, 1)
    ours, theirs = make_metrics("valence-arousal"), ConcordanceCorrCoef(num_outputs=2)
    for part in split_rows(500):
        ours.update(Outputs(None, estimated[part]), {"affect": truth[part]})
        theirs.update(estimated[part], truth[part])
    metrics = ours.compute()
    expected = theirs.compute().tolist()
    assert [metrics["val_ccc_valence"], metrics["val_ccc_arousal"]] == pytest.approx(expected, abs=1e-5)
    assert metrics["val_score"] == pytest.approx(sum(expected) / 2, abs=1e-5)


def test_the_next_epoch_starts_from_nothing() -> None:
    metrics = make_metrics("classification")
    for wrong in (0, 1):
        metrics.update(Outputs(torch.eye(7)[:4] * 5, None), {"label": torch.arange(4) + wrong})
        assert metrics.compute()["val_accuracy"] == 1 - wrong


def test_validation_counts_rows_without_affect_for_expression_only() -> None:
    spec = new_spec(ModelOptions(backbone="test_resnet", img_size=32, head="both"), SPACES["rafdb"])
    metrics = ValidationMetrics(spec, torch.device("cpu"))
    truth = torch.tensor([[0.1, 0.2], [0.5, -0.5], [-0.4, 0.3], [float("nan")] * 2])
    logits = torch.eye(7)[:4] * 5
    metrics.update(Outputs(logits, truth.nan_to_num()), {"label": torch.tensor([0, 1, 2, 6]), "affect": truth})
    values = metrics.compute()
    assert values["val_accuracy"] == pytest.approx(0.75)
    assert values["val_ccc_valence"] == pytest.approx(1, abs=1e-4)
    assert values["val_score"] == values["val_accuracy"]
