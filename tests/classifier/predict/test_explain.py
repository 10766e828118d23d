"""What moved the score of a face."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer.classifier.predict.explain import WINDOW, explain
from fer.classifier.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(make_classifier: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor([make_classifier(tmp_path_factory.mktemp("model"), "basic")], "cpu")


def score(predictor: Predictor, image: np.ndarray, label: str) -> float:
    probabilities = predictor.predict([image]).probabilities
    assert probabilities is not None
    return float(probabilities[0, predictor.labels.index(label)])


def test_a_pixels_value_is_the_mean_fall_of_the_score_over_the_patches_that_cover_it(predictor: Predictor) -> None:
    side = 60
    face = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    influence = explain(predictor, face, "fear")
    assert influence.shape == (side, side)
    window = side // WINDOW
    stride = window // 2
    blurred, whole = cv2.GaussianBlur(face, (0, 0), side / 10), score(predictor, face, "fear")
    for y, x in ((30, 30), (24, 37), (1, 58)):
        falls = []
        for top in range(0, side - window + 1, stride):
            for left in range(0, side - window + 1, stride):
                if top <= y < top + window and left <= x < left + window:
                    covered = face.copy()
                    covered[top : top + window, left : left + window] = blurred[
                        top : top + window, left : left + window
                    ]
                    falls.append(whole - score(predictor, covered, "fear"))
        assert influence[y, x] == pytest.approx(np.mean(falls), abs=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (48, 48), (200, 90), (900, 1000)])
def test_faces_of_any_size(predictor: Predictor, shape: tuple[int, int]) -> None:
    face = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    influence = explain(predictor, face, predictor.labels[0])
    assert influence.shape[0] == influence.shape[1] <= 224
    assert np.isfinite(influence).all()
    assert np.abs(influence).max() <= 1
