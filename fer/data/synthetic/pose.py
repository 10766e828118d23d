"""Position and rotation of a rendered head, and the projection of its points to the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pose:
    """Position, scale and rotation of the head.

    Angles are in degrees: ``yaw`` > 0 turns the face to the image's right, ``pitch`` > 0 up, ``roll`` > 0 clockwise.
    ``scale`` is relative to a face of 76% of the image's height; shifts are fractions of the image's side.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Pose:
        """A random pose with all landmarks inside the image."""
        return cls(
            yaw=rng.uniform(-22, 22),
            pitch=rng.uniform(-12, 12),
            roll=rng.uniform(-12, 12),
            scale=rng.uniform(0.9, 1.1),
            shift_x=rng.uniform(-0.04, 0.04),
            shift_y=rng.uniform(-0.03, 0.03),
        )

    def unit(self, size: int) -> float:
        """Pixels per half face height in an image of ``size`` pixels."""
        return 0.38 * self.scale * size

    def centre(self, size: int) -> np.ndarray:
        """Pixel (x, y) of the centre of the head."""
        return np.array([0.5 + self.shift_x, 0.5 + self.shift_y]) * size - 0.5

    def project(self, points: np.ndarray, size: int) -> np.ndarray:
        """Orthographic projection of points (N, 3) to float32 pixels (N, 2); pixel centres are integers."""
        angles = np.radians([self.yaw, self.pitch, self.roll])
        (sin_y, sin_p, sin_r), (cos_y, cos_p, cos_r) = np.sin(angles), np.cos(angles)
        yaw = np.array([[cos_y, 0, sin_y], [0, 1, 0], [-sin_y, 0, cos_y]])
        pitch = np.array([[1, 0, 0], [0, cos_p, -sin_p], [0, sin_p, cos_p]])
        roll = np.array([[cos_r, -sin_r, 0], [sin_r, cos_r, 0]])
        return (points @ (roll @ pitch @ yaw).T * self.unit(size) + self.centre(size)).astype(np.float32)

    def project_all(self, lines: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
        """Named polylines, each (N, 3), to float32 pixels (N, 2)."""
        pixels = self.project(np.concatenate(list(lines.values())), size)
        ends = np.cumsum([len(line) for line in lines.values()])
        return dict(zip(lines, np.split(pixels, ends[:-1]), strict=True))
