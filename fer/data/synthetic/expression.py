"""Expressions as facial actions, and the prototypes of the seven basic expressions.

Actions are action units (AU) of the Facial Action Coding System (Ekman & Friesen, 1978), some of them merged into one
signed value. The prototypes follow its emotion predictions (AU 6+12 happiness, 1+4+15 sadness, ...).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Expression:
    """Strength of each facial action: 0 is at rest, 1 (or -1) the maximum.

    ``lid_open`` and ``mouth_corner`` are in [-1, 1], the others in [0, 1].
    """

    inner_brow_raise: float = 0.0  # AU 1
    outer_brow_raise: float = 0.0  # AU 2
    brow_lower: float = 0.0  # AU 4: lowered and drawn together
    lid_open: float = 0.0  # AU 5 upwards, AU 43 (closed) downwards
    squint: float = 0.0  # AU 6 and 7: cheeks and lower lids raised
    nose_wrinkle: float = 0.0  # AU 9
    upper_lip_raise: float = 0.0  # AU 10
    mouth_corner: float = 0.0  # AU 12 upwards, AU 15 downwards
    lip_stretch: float = 0.0  # AU 20
    lip_press: float = 0.0  # AU 23 and 24
    jaw_drop: float = 0.0  # AU 25, 26 and 27: lips part, jaw drops

    def __add__(self, other: Expression) -> Expression:
        """Both at once, such as a smile with a closing eye; each action stays in its range."""
        return _clipped(np.add(astuple(self), astuple(other)))


_LOWEST = [-1.0 if field.name in ("lid_open", "mouth_corner") else 0.0 for field in fields(Expression)]

NEUTRAL = Expression()

# Keys are the label space `basic` of fer.labels.
PRESETS: Mapping[str, Expression] = {
    "anger": Expression(brow_lower=1.0, lid_open=0.3, squint=0.4, lip_press=0.9, mouth_corner=-0.25),
    "disgust": Expression(
        brow_lower=0.35, squint=0.6, nose_wrinkle=1.0, upper_lip_raise=1.0, mouth_corner=-0.5, jaw_drop=0.08
    ),
    "fear": Expression(
        inner_brow_raise=1.0, outer_brow_raise=0.3, brow_lower=0.4, lid_open=0.9, lip_stretch=1.0, jaw_drop=0.35
    ),
    "happiness": Expression(squint=0.6, mouth_corner=1.0, jaw_drop=0.3),
    "neutral": NEUTRAL,
    "sadness": Expression(inner_brow_raise=0.9, brow_lower=0.25, lid_open=-0.35, mouth_corner=-0.9),
    "surprise": Expression(inner_brow_raise=1.0, outer_brow_raise=1.0, lid_open=0.8, jaw_drop=1.0),
}


def blend(expression: Expression, strength: float) -> Expression:
    """The expression at a strength in [0, 1]: 0 is neutral, 1 is the expression itself."""
    assert 0 <= strength <= 1, f"strength {strength} outside [0, 1]"
    return _clipped(np.multiply(astuple(expression), strength))


def vary(expression: Expression, rng: np.random.Generator, amount: float = 0.07) -> Expression:
    """The expression with normal noise of standard deviation ``amount`` added to each action."""
    return _clipped(np.add(astuple(expression), rng.normal(0, amount, len(_LOWEST))))


def _clipped(values: np.ndarray) -> Expression:
    return Expression(*np.clip(values, _LOWEST, 1.0).tolist())
