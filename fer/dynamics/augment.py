"""Augmentation that moves a flow picture and both sets of landmarks together; every draw follows from a key.

A flow picture can't be turned like a photograph: its colours are directions. So it is read as a flow, whose points and
vectors are moved by the same affine map as the landmarks, and drawn again.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from fer.data.images import decode_rgb
from fer.data.landmarks import MIRROR
from fer.dynamics import flow
from fer.dynamics.frames import FramePair
from fer.dynamics.options import AugmentOptions


class Sample(NamedTuple):
    """What the network sees of a frame."""

    picture: np.ndarray
    """The flow picture, RGB uint8 (112, 112, 3)."""
    expression: np.ndarray
    """Landmarks, pixels (146, 2), float32."""
    baseline: np.ndarray


def plain(pair: FramePair) -> Sample:
    """A frame as it is."""
    return Sample(decode_rgb(pair.flow), pair.expression, pair.baseline)


class Augment:
    """A frame, and a key that decides everything, to a varied sample.

    The landmarks may be in pixels of another picture than the flow: the landmark net forgets where and how large the
    face is.
    """

    def __init__(self, options: AugmentOptions) -> None:
        self.options = options

    def __call__(self, pair: FramePair, key: int) -> Sample:
        rng = np.random.default_rng(key)
        mirrored = bool(rng.random() < self.options.hflip)
        matrix = self._matrix(rng, mirrored)
        picture = flow.draw(move_flow(flow.read(decode_rgb(pair.flow)), matrix))
        noise = rng.normal(0, 255 * self.options.colour_noise, picture.shape)
        picture = np.clip(np.round(picture + noise), 0, 255).astype(np.uint8)
        landmarks = []
        for points in (pair.expression, pair.baseline):
            moved = move_landmarks(points, matrix, mirrored)
            spread = self.options.landmark_noise * np.ptp(moved[:, 0])
            landmarks.append(moved + rng.normal(0, spread, moved.shape).astype(np.float32))
        return Sample(picture, *landmarks)

    def _matrix(self, rng: np.random.Generator, mirrored: bool) -> np.ndarray:
        """The (2, 3) map of a picture's pixels: mirrored, turned and scaled about its middle, then shifted."""
        options = self.options
        angle = math.radians(rng.uniform(-options.rotate, options.rotate))
        zoom = 1 + rng.uniform(-options.zoom, options.zoom)
        shift = rng.uniform(-options.shift, options.shift, 2) * flow.SIDE
        sign = -1 if mirrored else 1
        cosine, sine = math.cos(angle) * zoom, math.sin(angle) * zoom
        linear = np.array([[sign * cosine, -sine], [sign * sine, cosine]])
        middle = np.full(2, (flow.SIDE - 1) / 2)
        return np.column_stack([linear, middle + shift - linear @ middle])


def move_flow(field: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A flow (H, W, 2) after an affine map (2, 3) of the picture: its points move, and its vectors turn and stretch."""
    moved = cv2.warpAffine(field, matrix, field.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return moved @ matrix[:, :2].T.astype(np.float32)


def move_landmarks(points: np.ndarray, matrix: np.ndarray, mirrored: bool) -> np.ndarray:
    """Landmarks (146, 2) after an affine map (2, 3) of the picture.

    In a ``mirrored`` picture the left eye is where the right one was, so left and right landmarks change places too.
    """
    moved = cv2.transform(points[None].astype(np.float64), matrix)[0].astype(np.float32)
    return moved[MIRROR] if mirrored else moved
