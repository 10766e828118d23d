"""Predictions of single models, ensembles and mirrored images, with tiny untrained networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fer.classifier.model import load_model
from fer.classifier.predictor import Predictor
from fer.classifier.preprocess import normalize, to_input
from fer.errors import UserError

Make = Callable[..., Path]
BATCH = 64  # the predictor's default


def make_images(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*random.integers(16, 80, 2), 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("head", ["classification", "valence-arousal", "both"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_head(make_classifier: Make, tmp_path: Path, head: str, channels: int) -> None:
    predictor = Predictor([make_classifier(tmp_path / "m", head=head, in_chans=channels)], device="cpu")
    scores = predictor.predict(make_images(BATCH + 3))
    assert predictor.has_expression == (head != "valence-arousal")
    assert predictor.has_affect == (head != "classification")
    if head == "valence-arousal":
        assert scores.probabilities is None
    else:
        assert scores.probabilities is not None
        assert scores.probabilities.dtype == np.float32
        assert scores.probabilities.shape == (BATCH + 3, len(predictor.labels))
        np.testing.assert_allclose(scores.probabilities.sum(1), 1, atol=1e-5)
    if head == "classification":
        assert scores.valence_arousal is None
    else:
        assert scores.valence_arousal is not None
        assert scores.valence_arousal.shape == (BATCH + 3, 2)
        assert np.abs(scores.valence_arousal).max() <= 1


def test_predictions_are_those_of_the_network_in_order(make_classifier: Make, tmp_path: Path) -> None:
    predictor = Predictor([make_classifier(tmp_path / "m")], device="cpu")
    images = make_images(2 * BATCH + 5)
    model, spec = load_model(tmp_path / "m")
    batch = torch.from_numpy(np.stack([to_input(image, spec) for image in images]))
    with torch.inference_mode():
        expected = model(normalize(batch, spec)).logits.softmax(1).numpy()
    np.testing.assert_allclose(predictor.predict(images).probabilities, expected, atol=1e-5)
    assert np.diff(expected, axis=0).std() > 1e-3, "a constant network would prove nothing about the order"


def test_no_images(make_classifier: Make, tmp_path: Path) -> None:
    scores = Predictor([make_classifier(tmp_path / "m", head="both")], device="cpu").predict([])
    assert scores.probabilities is not None
    assert scores.valence_arousal is not None
    assert scores.probabilities.shape == (0, 7)
    assert scores.valence_arousal.shape == (0, 2)


def test_an_ensemble_is_the_mean_of_its_models(make_classifier: Make, tmp_path: Path) -> None:
    folders = [
        make_classifier(tmp_path / str(seed), seed=seed, head="both", in_chans=channels)
        for seed, channels in [(0, 3), (1, 1)]
    ]
    images = make_images(5)
    single = [Predictor([folder], device="cpu").predict(images) for folder in folders]
    both = Predictor(folders, device="cpu").predict(images)
    np.testing.assert_allclose(both.probabilities, np.mean([s.probabilities for s in single], 0), atol=1e-6)
    np.testing.assert_allclose(both.valence_arousal, np.mean([s.valence_arousal for s in single], 0), atol=1e-6)


def test_tta_is_invariant_to_mirroring(make_classifier: Make, tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "m", head="both")
    images = [image[:16, :16] for image in make_images(4)]
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
    plain, tta = Predictor([folder], device="cpu"), Predictor([folder], device="cpu", tta=True)
    assert np.abs(plain.predict(images).probabilities - plain.predict(mirrored).probabilities).max() > 1e-3
    np.testing.assert_allclose(tta.predict(images).probabilities, tta.predict(mirrored).probabilities, atol=1e-5)
    np.testing.assert_allclose(tta.predict(images).valence_arousal, tta.predict(mirrored).valence_arousal, atol=1e-5)
    mean = (plain.predict(images).probabilities + plain.predict(mirrored).probabilities) / 2
    np.testing.assert_allclose(tta.predict(images).probabilities, mean, atol=1e-5)


def test_user_errors(make_classifier: Make, tmp_path: Path) -> None:
    seven, six = make_classifier(tmp_path / "seven"), make_classifier(tmp_path / "six", space="six-class")
    with pytest.raises(UserError, match="same labels"):
        Predictor([seven, six], device="cpu")
    with pytest.raises(UserError, match=r"not a model folder: no model\.json"):
        Predictor([tmp_path / "nothing"], device="cpu")
    with pytest.raises(UserError, match="unknown device"):
        Predictor([seven], device="abacus")
    with pytest.raises(UserError, match="no model: give"):
        Predictor([])
