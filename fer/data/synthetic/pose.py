"""Where a drawn head is and where it turns, and so where its points lie in the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pose:
    """Where the head is and where it turns.

    Angles in degrees: ``yaw`` > 0 turns the face to the image's right, ``pitch`` > 0 up, ``roll`` > 0 clockwise.
    ``scale`` is relative to a face of 76% of the picture's height; shifts are shares of the picture's side.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Pose:
        """A random pose whose landmarks all stay inside the picture."""
        return cls(
            yaw=rng.uniform(-22, 22),
            pitch=rng.uniform(-12, 12),
            roll=rng.uniform(-12, 12),
            scale=rng.uniform(0.9, 1.1),
            shift_x=rng.uniform(-0.04, 0.04),
            shift_y=rng.uniform(-0.03, 0.03),
        )

    def unit(self, size: int) -> float:
        """Pixels per half face height in a picture of ``size`` pixels."""
        return 0.38 * self.scale * size

    def centre(self, size: int) -> np.ndarray:
        """Pixel (x, y) of the middle of the head."""
        return np.array([0.5 + self.shift_x, 0.5 + self.shift_y]) * size - 0.5

    def project(self, points: np.ndarray, size: int) -> np.ndarray:
        """Points (N, 3) in space to float32 pixels (N, 2), seen from far away; a pixel's centre is a whole number."""
        angles = np.radians([self.yaw, self.pitch, self.roll])
        (sin_y, sin_p, sin_r), (cos_y, cos_p, cos_r) = np.sin(angles), np.cos(angles)
        yaw = np.array([[cos_y, 0, sin_y], [0, 1, 0], [-sin_y, 0, cos_y]])
        pitch = np.array([[1, 0, 0], [0, cos_p, -sin_p], [0, sin_p, cos_p]])
        roll = np.array([[cos_r, -sin_r, 0], [sin_r, cos_r, 0]])
        return (points @ (roll @ pitch @ yaw).T * self.unit(size) + self.centre(size)).astype(np.float32)

    def project_all(self, lines: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
        """Named lines, each (N, 3) in space, to float32 pixels (N, 2)."""
        pixels = self.project(np.concatenate(list(lines.values())), size)
        ends = np.cumsum([len(line) for line in lines.values()])
        return dict(zip(lines, np.split(pixels, ends[:-1]), strict=True))
