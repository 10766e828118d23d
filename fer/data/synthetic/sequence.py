"""Rendered sequences of a movement with involuntary co-movement (synkinesis): test data, not clinical data.

Each frame of a sequence pairs a face at rest with the same face in motion, with exact landmarks and the true optical
flow between the two. The strength of the movement gives the score `dynamics`, that of the co-movement `synkinesis`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.interpolate import LinearNDInterpolator

from fer.data.landmarks import from_groups
from fer.data.synthetic.expression import NEUTRAL, Expression, blend, vary
from fer.data.synthetic.geometry import face_shapes
from fer.data.synthetic.person import Person
from fer.data.synthetic.pose import Pose
from fer.data.synthetic.renderer import RenderedFace, Scene, render

MAX_DYNAMICS, MAX_SYNKINESIS = 5, 3

# The voluntary movement at full strength, and its involuntary co-movement.
MOVEMENTS: Mapping[str, tuple[Expression, Expression]] = {
    "smile": (Expression(mouth_corner=1.0, jaw_drop=0.2), Expression(lid_open=-1.0)),
    "eye_close": (Expression(lid_open=-1.0), Expression(mouth_corner=0.9)),
}

# Positions of the mesh's midline points along the nose (0 bridge, 1 middle, 2 tip, 3 base), from the brows down.
_MIDLINE = np.array([-0.4, 0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4])


@dataclass(frozen=True)
class SyntheticFrame:
    """A face at rest and in motion, in images of ``size`` pixels."""

    person: Person
    rest: Expression
    moved: Expression
    pose: Pose
    moved_pose: Pose
    """Nearly ``pose``: the head motion that remains after aligning the two faces."""
    size: int
    dynamics: int
    synkinesis: int

    @property
    def baseline_landmarks(self) -> np.ndarray:
        """Pixels (146, 2), float32, in the order of `fer.data.landmarks`."""
        return _landmarks(self.person, self.rest, self.pose, self.size)

    @property
    def expression_landmarks(self) -> np.ndarray:
        """The same, of the face in motion."""
        return _landmarks(self.person, self.moved, self.moved_pose, self.size)

    def flow(self) -> np.ndarray:
        """Displacement in pixels of each point of the face at rest, (size, size, 2) float32.

        It is exact at the outlines, linear between them, and 0 outside the person.
        """
        before = np.concatenate(list(self.pose.project_all(face_shapes(self.person, self.rest), self.size).values()))
        after = np.concatenate(
            list(self.moved_pose.project_all(face_shapes(self.person, self.moved), self.size).values())
        )
        field = LinearNDInterpolator(before, after - before, fill_value=0.0)
        across = np.arange(self.size)
        return field(*np.meshgrid(across, across)).astype(np.float32)

    def render(self, scene: Scene | None = None) -> tuple[RenderedFace, RenderedFace]:
        """The face at rest and in motion."""
        return (
            render(self.person, self.rest, self.pose, scene, self.size),
            render(self.person, self.moved, self.moved_pose, scene, self.size),
        )


def sample_sequence(movement: str, frames: int, rng: np.random.Generator, size: int = 112) -> list[SyntheticFrame]:
    """A random person's ``movement`` of `MOVEMENTS`, from rest to its peak, in ``frames`` frames.

    The peak strength and the amount of co-movement differ between people, and every frame has some noise. The scores
    are the two strengths in [0, 1], times 5 and times 3, rounded.
    """
    voluntary, involuntary = MOVEMENTS[movement]
    person, pose = Person.sample(rng), replace(Pose.sample(rng), roll=0.0)
    rest = vary(NEUTRAL, rng, 0.02)
    peak, involuntary_peak = rng.uniform(0.5, 1.0), rng.uniform(0.0, 1.0)
    edges = np.linspace(0, 1, frames + 1)
    sampled = []
    for low, high in pairwise(edges):
        progress = np.sin(np.pi / 2 * rng.uniform(low, high))  # fast at first, slow at the end
        strength = peak * progress
        # Not proportional to the movement, or one score would determine the other.
        involuntary_strength = involuntary_peak * progress ** rng.uniform(0.3, 1.0)
        moved = vary(rest + blend(voluntary, strength) + blend(involuntary, involuntary_strength), rng, 0.02)
        tremor = rng.normal(0, 1, 3)
        moved_pose = replace(
            pose,
            roll=0.3 * tremor[0],
            shift_x=pose.shift_x + 0.002 * tremor[1],
            shift_y=pose.shift_y + 0.002 * tremor[2],
        )
        scores = round(MAX_DYNAMICS * strength), round(MAX_SYNKINESIS * involuntary_strength)
        sampled.append(SyntheticFrame(person, rest, moved, pose, moved_pose, size, *scores))
    return sampled


def _landmarks(person: Person, expression: Expression, pose: Pose, size: int) -> np.ndarray:
    points = pose.project_all(face_shapes(person, expression), size)
    nose = points["nose"][[0, 1, 2, 5]]
    positions = np.arange(len(nose))
    midline = np.stack([np.interp(_MIDLINE, positions, nose[:, axis]) for axis in (0, 1)], axis=1)
    midline[0] = nose[0] + _MIDLINE[0] * (nose[1] - nose[0])  # above the bridge: np.interp does not extrapolate
    return from_groups({**points, "midline": midline})
