"""The 3D outlines of a face with an expression.

Coordinates are in half face heights: x to the image's right, y down, z towards the viewer, the origin at the centre of
the head. "Left" and "right" are the person's own, so the left eye is on the image's right.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from fer.data.synthetic.expression import Expression
from fer.data.synthetic.person import Person

# Number of points of each landmark group: contours and irises of MediaPipe's face mesh, and the nose; 146 in all.
LANDMARKS: Mapping[str, int] = {
    "face_oval": 36,  # from the crown, clockwise in the image
    "left_brow": 10,  # upper edge inner to outer, lower edge outer to inner
    "right_brow": 10,
    "left_eye": 16,  # inner corner, upper lid, outer corner, lower lid
    "right_eye": 16,
    "left_iris": 5,  # centre, then image right, bottom, left, top; never outside the lids
    "right_iris": 5,
    "nose": 8,  # bridge, middle, tip; then along the base: wing, nostril, septum, nostril, wing
    "lips_outer": 20,  # image left corner, upper edge, right corner, lower edge
    "lips_inner": 20,
}

SIDES = {"left": 1.0, "right": -1.0}
"""Sign of x of each half of the face."""

Shapes = dict[str, np.ndarray]
"""Named outlines, each (N, 3)."""


def face_shapes(person: Person, expression: Expression) -> Shapes:
    """All outlines of the face: the groups of `LANDMARKS`, and others that are only rendered."""
    return {
        "face_oval": _oval(person, expression),
        **_brow("left", person, expression),
        **_brow("right", person, expression),
        **_eye("left", person, expression),
        **_eye("right", person, expression),
        "nose": _nose(person, expression),
        **_mouth(person, expression),
        **_head(person),
    }


def creases(person: Person, expression: Expression) -> list[tuple[np.ndarray, float]]:
    """Skin folds of an expression: polylines (N, 3) with their depth in [0, 1]."""
    p, e = person, expression
    smile = max(e.mouth_corner, 0.0)
    from_nose = max(smile, 0.9 * e.upper_lip_raise, 0.6 * e.nose_wrinkle)
    corner = p.mouth_width * (1.12 + 0.2 * smile + 0.25 * e.lip_stretch)
    t = np.linspace(0, 1, 7)
    folds = []
    for side in SIDES.values():
        cheek = p.nose_width + 0.03 + (corner - p.nose_width) * t**0.8 + 0.05 * np.sin(np.pi * t)
        down = p.nose_y - 0.05 + (p.mouth_y - 0.06 * smile - p.nose_y + 0.05) * t
        folds.append((_on_face(side * cheek, down), from_nose))
        folds.append((_on_face(side * (0.035 + 0.015 * t), p.brow_y - 0.04 + 0.14 * t), e.brow_lower))
        for height in (0.03, 0.1):
            folds.append((_on_face(side * (0.03 + 0.09 * t), p.eye_y + height - 0.03 * t, 0.08), e.nose_wrinkle))
    forehead = np.linspace(-0.32, 0.32, 9)
    for height in (0.29, 0.37):
        folds.append((_on_face(forehead, p.brow_y - height + 0.3 * forehead**2), 0.5 * e.outer_brow_raise))
    return folds


def _on_face(x: np.ndarray, y: np.ndarray, lift: float | np.ndarray = 0.0) -> np.ndarray:
    """Points (N, 3) on the front of the head, an ellipsoid, raised by ``lift``."""
    return _line(x, y, 0.45 * np.sqrt(np.maximum(1 - (x / 0.95) ** 2 - (y / 1.25) ** 2, 0)) + lift)


def _line(x: ArrayLike, y: ArrayLike, z: ArrayLike) -> np.ndarray:
    """Points (N, 3) from N coordinates ``x``, and N or one of ``y`` and ``z``."""
    points = np.empty((np.size(x), 3))
    points[:, 0], points[:, 1], points[:, 2] = x, y, z
    return points


def _oval(p: Person, e: Expression) -> np.ndarray:
    around = np.linspace(0, 2 * np.pi, LANDMARKS["face_oval"], endpoint=False)
    x, y = p.face_width * np.sin(around), -np.cos(around)
    x = x * (1 - p.jaw_taper * np.maximum(y, 0) ** 2)
    y = y + 0.1 * e.jaw_drop * np.maximum(y, 0)
    return _line(x, y, 0.0)


def _brow(name: str, p: Person, e: Expression) -> Shapes:
    u = np.linspace(0, 1, LANDMARKS[f"{name}_brow"] // 2)  # inner end to outer end
    x = 0.13 + 0.37 * u - 0.05 * e.brow_lower * (1 - u)
    lift = 0.15 * e.inner_brow_raise * (1 - u) ** 1.5 + 0.14 * e.outer_brow_raise * np.sin(np.pi * (0.15 + 0.6 * u))
    drop = e.brow_lower * (0.13 - 0.13 * u) + 0.05 * e.nose_wrinkle * (1 - u)
    y = p.brow_y - 4 * p.brow_arch * u * (1 - u) + p.brow_tilt * (2 * u - 1) - lift + drop
    half = p.brow_thickness * (1 - 0.65 * u**2)
    edge = np.concatenate([y - half, (y + half)[::-1]])
    return {f"{name}_brow": _on_face(SIDES[name] * np.concatenate([x, x[::-1]]), edge, 0.03)}


def _eye(name: str, p: Person, e: Expression) -> Shapes:
    above = p.eye_open * (1 + (0.8 if e.lid_open > 0 else 1.0) * e.lid_open) * (1 - 0.3 * e.squint)
    below = 0.65 * p.eye_open * (1 + 0.25 * max(e.lid_open, 0)) * (1 - 0.85 * e.squint)

    def between_lids(u: np.ndarray, height: np.ndarray) -> np.ndarray:
        """Points from the inner (u = -1) to the outer corner (1), with heights clipped to the lids."""
        arc = np.maximum(1 - u**2, 0) ** 0.7
        inside = np.clip(height, -above * arc, below * arc)
        return _on_face(SIDES[name] * (p.eye_x + p.eye_width * u), p.eye_y - p.eye_tilt * u + inside)

    def disc(radius: float, points: int) -> np.ndarray:
        around = np.linspace(0, 2 * np.pi, points, endpoint=False)
        x, y = radius * np.cos(around), radius * np.sin(around)
        return between_lids(SIDES[name] * x / p.eye_width, y - 0.15 * p.eye_open)

    upper, lower = np.linspace(-1, 1, 9), np.linspace(1, -1, 9)[1:-1]
    iris = 0.5 * p.eye_width
    return {
        f"{name}_eye": np.concatenate([between_lids(upper, np.full(9, -1.0)), between_lids(lower, np.full(7, 1.0))]),
        f"{name}_iris": np.concatenate([disc(0.0, 1), disc(iris, 4)]),
        f"{name}_iris_disc": disc(iris, 20),
        f"{name}_pupil": disc(0.5 * iris, 12),
    }


def _nose(p: Person, e: Expression) -> np.ndarray:
    wide = p.nose_width * (1 + 0.2 * e.nose_wrinkle + 0.08 * e.mouth_corner)
    base = p.nose_y - 0.06 * e.nose_wrinkle
    x = np.array([0, 0, 0, -wide, -0.45 * wide, 0, 0.45 * wide, wide])
    y = np.array([p.eye_y, (p.eye_y + base) / 2, base - 0.06, base - 0.04, base, base + 0.02, base, base - 0.04])
    return _on_face(x, y, np.array([0.03, 0.11, 0.2, 0.05, 0.1, 0.12, 0.1, 0.05]))


def _mouth(p: Person, e: Expression) -> Shapes:
    smile, frown = max(e.mouth_corner, 0.0), max(-e.mouth_corner, 0.0)
    round_mouth = e.jaw_drop * (1 - smile) * (1 - e.lip_stretch)
    wide = p.mouth_width * (1 + 0.3 * smile + 0.35 * e.lip_stretch - 0.18 * e.lip_press - 0.25 * round_mouth)
    bend = p.mouth_curve + 0.17 * smile - 0.15 * frown  # how far the corners rise above the middle

    u = np.linspace(-1, 1, LANDMARKS["lips_outer"] // 2 + 1)
    arc = np.maximum(1 - u**2, 0)
    middle = p.mouth_y - bend * (u**2 - 0.45)
    gap = 0.36 * e.jaw_drop * arc ** (0.65 - 0.35 * e.lip_stretch)
    inner_upper = middle - 0.15 * gap - 0.09 * e.upper_lip_raise * arc
    inner_lower = middle + 0.85 * gap
    thick = p.lip_thickness * (1 - 0.8 * e.lip_press) * (1 - 0.3 * e.lip_stretch) * (1 - 0.25 * smile)
    bow = 1 - 0.3 * np.exp(-((u / 0.18) ** 2))  # the dip in the middle of the upper lip
    outer_upper = inner_upper - thick * bow * np.sqrt(arc)
    outer_lower = inner_lower + 1.25 * thick * np.sqrt(arc)
    teeth = np.minimum(inner_upper + 0.1, inner_lower)

    def ring(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
        return _on_face(wide * np.concatenate([u, u[-2:0:-1]]), np.concatenate([upper, lower[-2:0:-1]]), 0.04)

    return {
        "lips_outer": ring(outer_upper, outer_lower),
        "lips_inner": ring(inner_upper, inner_lower),
        "teeth": ring(inner_upper, teeth),
    }


def _head(p: Person) -> Shapes:
    """Hair, neck, clothes and ears, which follow the pose but not the expression."""
    around = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    back = -(1 + p.hair_volume) * np.cos(around) * np.where(np.cos(around) < 0, 1.4, 1)
    neck = 0.5 * p.face_width
    circle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ears = {
        f"{name}_ear": _line(side * p.face_width + 0.07 * np.cos(circle), 0.1 + 0.17 * np.sin(circle), -0.05)
        for name, side in SIDES.items()
    }
    return {
        "hair_behind": _line((p.face_width + p.hair_volume) * np.sin(around), np.minimum(back, p.hair_length), -0.2),
        "neck": _line([-neck, neck, 1.1 * neck, -1.1 * neck], [0.4, 0.4, 2, 2], -0.25),
        "clothes": _line([-0.5, 0.5, 1.3, 1.6, -1.6, -1.3], [1.3, 1.3, 1.5, 3, 3, 1.5], -0.25),
        "fringe": _fringe(p),
        **ears,
    }


def _fringe(p: Person) -> np.ndarray:
    """Hair above the hairline, whose lower edge is highest at the parting."""
    temple = np.radians(72)
    around = np.linspace(-temple, temple, 15)
    x, top = (p.face_width + 0.4 * p.hair_volume) * np.sin(around), -(1 + p.hair_volume) * np.cos(around)
    across = np.linspace(-1, 1, 15) - p.parting
    reach = across / np.where(across < 0, -1 - p.parting, 1 - p.parting)  # 0 at the parting, 1 at the temples
    hairline = p.hairline + (top[0] - p.hairline) * reach**2
    return np.concatenate([_line(x, top, 0.0), _line(x, hairline, 0.3 * (1 - reach**2))[::-1]])
