"""Predictions to draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fer.classifier.predict.rows import PredictionRow

LABELS = ("anger", "happiness", "sadness")


@pytest.fixture
def make_row() -> Callable[..., PredictionRow]:
    """Makes a row: happiness 75%, sadness 25%, and further fields."""

    def make(**fields: Any) -> PredictionRow:
        scores = {"anger": 0.0, "happiness": 0.75, "sadness": 0.25}
        defaults = {"path": "a.png", "label": "happiness", "confidence": 0.75, "scores": scores}
        return PredictionRow(**(defaults | fields))

    return make
