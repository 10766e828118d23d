"""The model as the peers run it: Ferry's predictor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer.classifier.predictor import Predictor
from fer.data.images import decode_rgb

__all__ = ["decode_rgb", "open_predictor", "predict"]


def open_predictor() -> Predictor:
    return Predictor([Path(os.environ["MODEL"])], "cpu")


def predict(predictor: Predictor, images: Sequence[np.ndarray]) -> list[dict]:
    """The label and the scores of each image."""
    probabilities = predictor.predict(images).probabilities
    assert probabilities is not None
    return [
        {
            "label": predictor.labels[int(row.argmax())],
            "scores": dict(zip(predictor.labels, row.tolist(), strict=True)),
        }
        for row in probabilities
    ]
