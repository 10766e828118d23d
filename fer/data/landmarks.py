"""The 146 face landmarks of MediaPipe's blendshape graph: mesh indices, groups and mirror images.

They are the contours and irises of MediaPipe's face mesh of 478 points, and eight points of the facial midline, in
ascending order of their mesh index. "Left" and "right" are the person's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MESH_POINTS = 478
"""Number of points of MediaPipe's face mesh, irises included."""

# Mesh indices; within a group in the order of `fer.data.synthetic.LANDMARKS` (those of the nose are on the midline).
GROUPS: Mapping[str, tuple[int, ...]] = {
    "face_oval": (
        10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
        152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
    ),
    "left_brow": (336, 296, 334, 293, 300, 276, 283, 282, 295, 285),
    "right_brow": (107, 66, 105, 63, 70, 46, 53, 52, 65, 55),
    "left_eye": (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382),
    "right_eye": (133, 173, 157, 158, 159, 160, 161, 246, 33, 7, 163, 144, 145, 153, 154, 155),
    "left_iris": (473, 474, 477, 476, 475),
    "right_iris": (468, 469, 472, 471, 470),
    "midline": (8, 168, 6, 197, 195, 5, 4, 1),
    "lips_outer": (
        61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146,
    ),
    "lips_inner": (
        78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95,
    ),
}  # fmt: skip

INDICES = np.array(sorted(number for group in GROUPS.values() for number in group))
"""Mesh indices of the 146 landmarks, ascending."""

_POSITION = {number: place for place, number in enumerate(INDICES.tolist())}

RIGID = np.array([_POSITION[number] for number in (*GROUPS["midline"][:4], 33, 133, 362, 263, 10, 127, 356, 234, 454)])
"""Which of the 146 landmarks hardly move with an expression: faces are aligned by them."""


def from_groups(groups: Mapping[str, np.ndarray]) -> np.ndarray:
    """The (146, 2) landmarks in the blendshape graph's order, from groups of points (N, 2) in the order of `GROUPS`."""
    points = np.empty((len(INDICES), 2), np.float32)
    for name, numbers in GROUPS.items():
        points[[_POSITION[number] for number in numbers]] = groups[name]
    return points


def _mirror() -> np.ndarray:
    """For each of the 146 landmarks, the one on the other side of the face."""
    partner = {number: number for number in GROUPS["midline"]}
    for left, right in (("left_brow", "right_brow"), ("left_eye", "right_eye")):
        partner |= dict(zip(GROUPS[left], GROUPS[right], strict=True))
    # Points of an iris are centre, right, bottom, left and top in the image: a mirror image swaps right and left.
    partner |= dict(zip(GROUPS["left_iris"], (GROUPS["right_iris"][place] for place in (0, 3, 2, 1, 4)), strict=True))
    oval = GROUPS["face_oval"]
    partner |= {number: oval[-place] for place, number in enumerate(oval)}
    for lips in (GROUPS["lips_outer"], GROUPS["lips_inner"]):
        partner |= {number: lips[10 - place] for place, number in enumerate(lips)}
    partner |= {other: number for number, other in partner.items()}
    return np.array([_POSITION[partner[number]] for number in INDICES.tolist()])


MIRROR = _mirror()
"""``points[MIRROR]`` swaps left and right landmarks, as a horizontal flip needs."""
