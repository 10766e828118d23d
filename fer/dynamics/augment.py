"""Augmentation of a flow image together with both sets of landmarks, as a function of a seed.

A flow image can't be rotated like a photograph, since its colours encode directions. It is decoded to a flow field,
whose positions and vectors are transformed by the same affine map as the landmarks, and encoded again.
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
from fer.dynamics.options import FrameAugmentOptions


class FrameSample(NamedTuple):
    """The network's input for one frame."""

    flow_image: np.ndarray
    """RGB uint8 (112, 112, 3)."""
    expression: np.ndarray
    """Landmarks of the frame: pixels (146, 2), float32."""
    baseline: np.ndarray
    """Landmarks of the baseline frame, likewise."""


def unaugmented(pair: FramePair) -> FrameSample:
    """A frame without augmentation."""
    return FrameSample(decode_rgb(pair.flow), pair.expression, pair.baseline)


class FrameAugment:
    """Augments a frame; the seed determines the result.

    The landmarks may be in pixels of another image than the flow: the landmark net ignores their position and scale.
    """

    def __init__(self, options: FrameAugmentOptions) -> None:
        self.options = options

    def __call__(self, pair: FramePair, seed: int) -> FrameSample:
        rng = np.random.default_rng(seed)
        flipped = bool(rng.random() < self.options.hflip)
        matrix = self._random_affine(rng, flipped)
        image = flow.to_image(transform_flow(flow.from_image(decode_rgb(pair.flow)), matrix))
        noise = rng.normal(0, 255 * self.options.colour_noise, image.shape)
        image = np.clip(np.round(image + noise), 0, 255).astype(np.uint8)
        landmarks = []
        for points in (pair.expression, pair.baseline):
            moved = transform_landmarks(points, matrix, flipped)
            sigma = self.options.landmark_noise * np.ptp(moved[:, 0])
            landmarks.append(moved + rng.normal(0, sigma, moved.shape).astype(np.float32))
        return FrameSample(image, *landmarks)

    def _random_affine(self, rng: np.random.Generator, flipped: bool) -> np.ndarray:
        """The (2, 3) map of image pixels: flip, rotation and scaling about the centre, then shift."""
        options = self.options
        angle = math.radians(rng.uniform(-options.rotate, options.rotate))
        zoom = 1 + rng.uniform(-options.zoom, options.zoom)
        shift = rng.uniform(-options.shift, options.shift, 2) * flow.SIDE
        sign = -1 if flipped else 1
        cosine, sine = math.cos(angle) * zoom, math.sin(angle) * zoom
        linear = np.array([[sign * cosine, -sine], [sign * sine, cosine]])
        centre = np.full(2, (flow.SIDE - 1) / 2)
        return np.column_stack([linear, centre + shift - linear @ centre])


def transform_flow(field: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A flow field (H, W, 2) under an affine map (2, 3) of the image: positions move, vectors rotate and scale."""
    moved = cv2.warpAffine(field, matrix, field.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return moved @ matrix[:, :2].T.astype(np.float32)


def transform_landmarks(points: np.ndarray, matrix: np.ndarray, flipped: bool) -> np.ndarray:
    """Landmarks (146, 2) under an affine map (2, 3) of the image.

    In a ``flipped`` image the left eye appears as the right one, so left and right landmarks are exchanged.
    """
    moved = cv2.transform(points[None].astype(np.float64), matrix)[0].astype(np.float32)
    return moved[MIRROR] if flipped else moved
