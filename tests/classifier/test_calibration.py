"""The temperature: found where confidence is too high or too low, in batches, and used by predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fer.classifier.calibration import LIMIT, PLAIN, best_temperature, sum_losses
from fer.classifier.predictor import Predictor


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_logits_is_found(true_temperature: float) -> None:
    random = torch.Generator().manual_seed(0)
    honest = torch.randn(20_000, 8, generator=random) * 2
    labels = torch.multinomial(honest.softmax(1), 1, generator=random)[:, 0]
    parts = torch.arange(20_000).split(1000)
    losses = torch.stack([sum_losses(honest[part] * true_temperature, labels[part]) for part in parts]).sum(0)
    assert best_temperature(losses) == pytest.approx(true_temperature, rel=0.06)
    plain = F.cross_entropy(honest * true_temperature, labels, reduction="sum")
    assert float(losses[PLAIN]) == pytest.approx(float(plain), rel=1e-5)


def test_perfect_predictions_reach_the_limit_only() -> None:
    assert best_temperature(sum_losses(torch.eye(4) * 9, torch.arange(4))) == pytest.approx(1 / LIMIT)


def test_predictions_are_divided_by_it(make_classifier: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "m")
    images = list(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))
    before = Predictor([folder], "cpu").predict(images).probabilities
    spec = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(spec | {"temperature": 2.0}))
    after = Predictor([folder], "cpu").predict(images).probabilities
    assert before is not None
    assert after is not None
    expected = np.sqrt(before) / np.sqrt(before).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(after, expected, atol=1e-5)
