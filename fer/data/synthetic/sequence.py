"""Drawn people who make a movement, and whose face moves along where it should not: a test bed, no clinical data.

A moment of such a sequence is a neutral face and the same face in motion, with exact landmarks and the true flow
between the two. How far the face makes the movement sets the score `dynamics`, how far the wrong part goes with it
`synkinesis`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.interpolate import LinearNDInterpolator

from fer.data.landmarks import arrange
from fer.data.synthetic.expression import NEUTRAL, Expression, blend, vary
from fer.data.synthetic.geometry import shapes
from fer.data.synthetic.paint import Face, Scene, render
from fer.data.synthetic.person import Person
from fer.data.synthetic.pose import Pose

TOP_DYNAMICS, TOP_SYNKINESIS = 5, 3

# The asked movement at its fullest, and the unwanted one that goes with it.
MOVEMENTS: Mapping[str, tuple[Expression, Expression]] = {
    "smile": (Expression(mouth_corner=1.0, jaw_drop=0.2), Expression(lid_open=-1.0)),
    "eye_close": (Expression(lid_open=-1.0), Expression(mouth_corner=0.9)),
}

# Places on the drawn nose (0 bridge, 1 middle, 2 tip, 3 base) of the mesh's points on the midline, from the brows down.
_MIDLINE = np.array([-0.4, 0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4])


@dataclass(frozen=True)
class Moment:
    """A face at rest and in motion, in pictures of ``size`` pixels."""

    person: Person
    rest: Expression
    moved: Expression
    pose: Pose
    moved_pose: Pose
    """All but ``pose``: what aligning the two faces leaves of a moving head."""
    size: int
    dynamics: int
    synkinesis: int

    @property
    def baseline_landmarks(self) -> np.ndarray:
        """Pixels (146, 2), float32, in the order of `fer.data.landmarks`."""
        return _landmarks(self.person, self.rest, self.pose, self.size)

    @property
    def expression_landmarks(self) -> np.ndarray:
        """Likewise, of the face in motion."""
        return _landmarks(self.person, self.moved, self.moved_pose, self.size)

    def flow(self) -> np.ndarray:
        """Pixels (size, size, 2), float32, that each point of the face at rest moves.

        Exact at the drawn lines, linear between them, and 0 outside the picture of the person.
        """
        before = np.concatenate(list(self.pose.project_all(shapes(self.person, self.rest), self.size).values()))
        after = np.concatenate(list(self.moved_pose.project_all(shapes(self.person, self.moved), self.size).values()))
        field = LinearNDInterpolator(before, after - before, fill_value=0.0)
        across = np.arange(self.size)
        return field(*np.meshgrid(across, across)).astype(np.float32)

    def pictures(self, scene: Scene | None = None) -> tuple[Face, Face]:
        """The two faces, drawn."""
        return (
            render(self.person, self.rest, self.pose, scene, self.size),
            render(self.person, self.moved, self.moved_pose, scene, self.size),
        )


def sequence(movement: str, frames: int, rng: np.random.Generator, size: int = 112) -> list[Moment]:
    """One person's way from rest to the fullest ``movement`` of `MOVEMENTS` that they manage, in ``frames`` moments.

    The fullest strength and the share of unwanted movement are the person's own, and each moment is a little off: the
    scores are the strengths in [0, 1], times 5 and times 3, rounded.
    """
    asked, unwanted = MOVEMENTS[movement]
    person, pose = Person.sample(rng), replace(Pose.sample(rng), roll=0.0)
    rest = vary(NEUTRAL, rng, 0.02)
    fullest, unwanted_share = rng.uniform(0.5, 1.0), rng.uniform(0.0, 1.0)
    edges = np.linspace(0, 1, frames + 1)
    moments = []
    for low, high in pairwise(edges):
        way = np.sin(np.pi / 2 * rng.uniform(low, high))  # fast from rest, slow at the end
        strength = fullest * way
        # Unwanted movement comes with the movement, but not in step with it: else one score would tell the other.
        along = unwanted_share * way ** rng.uniform(0.3, 1.0)
        moved = vary(rest + blend(asked, strength) + blend(unwanted, along), rng, 0.02)
        shake = rng.normal(0, 1, 3)
        moved_pose = replace(
            pose,
            roll=0.3 * shake[0],
            shift_x=pose.shift_x + 0.002 * shake[1],
            shift_y=pose.shift_y + 0.002 * shake[2],
        )
        scores = round(TOP_DYNAMICS * strength), round(TOP_SYNKINESIS * along)
        moments.append(Moment(person, rest, moved, pose, moved_pose, size, *scores))
    return moments


def _landmarks(person: Person, expression: Expression, pose: Pose, size: int) -> np.ndarray:
    points = pose.project_all(shapes(person, expression), size)
    nose = points["nose"][[0, 1, 2, 5]]
    places = np.arange(len(nose))
    midline = np.stack([np.interp(_MIDLINE, places, nose[:, axis]) for axis in (0, 1)], axis=1)
    midline[0] = nose[0] + _MIDLINE[0] * (nose[1] - nose[0])  # above the bridge: np.interp does not go beyond the ends
    return arrange({**points, "midline": midline})
