"""The identity of a rendered face: proportions, hair and colours of a random person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]
"""RGB in 0..255."""

SKINS = np.array([(247, 219, 198), (232, 190, 160), (205, 155, 118), (160, 110, 78), (124, 82, 58), (94, 62, 46)])
HAIRS = np.array(
    [(24, 20, 20), (60, 40, 28), (112, 74, 42), (178, 132, 74), (222, 190, 132), (160, 70, 36), (170, 168, 166)]
)
IRISES = np.array([(62, 40, 26), (100, 68, 36), (78, 96, 62), (74, 104, 132)])


@dataclass(frozen=True)
class Person:
    """Proportions and colours. Lengths are in half face heights; the face spans -1 (crown) to 1 (chin).

    Positions are those of the face at rest: x to the image's right, y down, the origin at the centre of the face.
    """

    face_width: float = 0.74
    """Half the width."""
    jaw_taper: float = 0.2
    """By which fraction the jaw is narrower than the cheeks."""
    eye_x: float = 0.33
    eye_y: float = -0.06
    eye_width: float = 0.155
    """Half the width of an eye."""
    eye_open: float = 0.082
    """From the centre of the eye to the upper lid."""
    eye_tilt: float = 0.0
    brow_y: float = -0.27
    brow_thickness: float = 0.032
    brow_tilt: float = 0.0
    brow_arch: float = 0.035
    nose_y: float = 0.32
    nose_width: float = 0.13
    mouth_y: float = 0.6
    mouth_width: float = 0.26
    lip_thickness: float = 0.05
    mouth_curve: float = 0.0
    """Height of the corners above the centre of the mouth at rest."""
    hairline: float = -0.62
    parting: float = 0.0
    hair_volume: float = 0.13
    hair_length: float = 0.3
    """y of the lowest point of the hair."""
    skin: Colour = (232.0, 190.0, 160.0)
    hair: Colour = (60.0, 40.0, 28.0)
    iris: Colour = (74.0, 104.0, 132.0)
    lips: Colour = (190.0, 110.0, 105.0)
    clothes: Colour = (90.0, 110.0, 140.0)

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Person:
        """A random person."""
        skin = _interpolate(SKINS, rng)
        return cls(
            face_width=rng.uniform(0.66, 0.82),
            jaw_taper=rng.uniform(0.08, 0.32),
            eye_x=rng.uniform(0.30, 0.36),
            eye_y=rng.uniform(-0.1, -0.02),
            eye_width=rng.uniform(0.135, 0.17),
            eye_open=rng.uniform(0.068, 0.095),
            eye_tilt=rng.uniform(-0.015, 0.025),
            brow_y=rng.uniform(-0.32, -0.25),
            brow_thickness=rng.uniform(0.018, 0.045),
            brow_tilt=rng.uniform(-0.02, 0.02),
            brow_arch=rng.uniform(0.015, 0.055),
            nose_y=rng.uniform(0.27, 0.36),
            nose_width=rng.uniform(0.1, 0.16),
            mouth_y=rng.uniform(0.57, 0.64),
            mouth_width=rng.uniform(0.22, 0.3),
            lip_thickness=rng.uniform(0.035, 0.065),
            mouth_curve=rng.uniform(-0.012, 0.012),
            hairline=rng.uniform(-0.85, -0.5),
            parting=rng.uniform(-0.6, 0.6),
            hair_volume=rng.uniform(0.03, 0.2),
            hair_length=rng.uniform(-0.4, 1.3),
            skin=_colour(skin),
            hair=_colour(_interpolate(HAIRS, rng)),
            iris=_colour(_interpolate(IRISES, rng)),
            lips=_colour(skin * (0.86, 0.58, 0.6) + rng.uniform(-8, 12, 3)),
            clothes=_colour(rng.uniform(20, 235, 3)),
        )


def _interpolate(colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random colour between two neighbours of a colour scale."""
    position = rng.uniform(0, len(colours) - 1)
    low = int(position)
    return colours[low] + (position - low) * (colours[low + 1] - colours[low])


def _colour(rgb: np.ndarray) -> Colour:
    red, green, blue = np.clip(rgb, 0, 255).tolist()
    return red, green, blue
