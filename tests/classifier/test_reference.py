"""The reference of drift: counts of the predictions on the validation split, from training and from predictions."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fer.classifier.model import Outputs, new_spec
from fer.classifier.options import ModelOptions
from fer.classifier.reference import BINS, reference_of
from fer.classifier.validation import ValidationMetrics
from fer.labels import SPACES


@given(st.integers(0, 2**32), st.integers(1, 300), st.floats(0.1, 20))
def test_every_prediction_has_a_bin_and_the_bins_hold_as_many(seed: int, rows: int, sharpness: float) -> None:
    logits = np.random.default_rng(seed).normal(0, sharpness, (rows, 7))
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    reference = reference_of(probabilities)
    assert sum(reference.labels) == sum(reference.confidence) == rows
    assert len(reference.confidence) == len(reference.confidence_edges) + 1 <= BINS
    assert reference.confidence_edges == sorted(set(reference.confidence_edges))
    assert reference.labels == np.bincount(probabilities.argmax(1), minlength=7).tolist()


def test_bins_are_nearly_deciles() -> None:
    confidence = np.linspace(0.5, 1, 10_000)
    reference = reference_of(np.stack([confidence, 1 - confidence], axis=1))
    assert len(reference.confidence) == BINS
    assert max(abs(count - 1000) for count in reference.confidence) <= 25
    counts = np.bincount([reference.confidence_bin(value) for value in confidence])
    assert np.abs(counts - reference.confidence).max() <= 25


def test_training_counts_the_calibrated_predictions_of_all_batches() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (500,), generator=random)
    logits = 3 * torch.randn(500, 7, generator=random) + 2 * torch.nn.functional.one_hot(labels, 7)
    spec = new_spec(ModelOptions(backbone="test_resnet", img_size=32), SPACES["rafdb"])
    metrics = ValidationMetrics(spec, torch.device("cpu"))
    for rows in torch.arange(500).split(37):
        metrics.update(Outputs(logits[rows], None), {"label": labels[rows]})
    temperature = metrics.compute()["val_temperature"]
    assert temperature != 1
    assert metrics.reference == reference_of((logits / temperature).softmax(1).numpy())
