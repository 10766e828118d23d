"""From lines to a picture: projects a face's shapes and fills them, back to front."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from fer.data.synthetic.expression import NEUTRAL, Expression
from fer.data.synthetic.geometry import LANDMARKS, SIDES, creases, shapes
from fer.data.synthetic.person import Colour, Person
from fer.data.synthetic.pose import Pose

SUPERSAMPLING = 4  # painted so many times larger, then shrunk: smooth edges
SUBPIXEL_BITS = 4  # cv2 takes whole numbers of 1/16 pixel

INK = (24.0, 16.0, 16.0)
WHITE = (240.0, 238.0, 235.0)
GAPE = (70.0, 20.0, 24.0)


@dataclass(frozen=True, eq=False)
class Scene:
    """What surrounds the face and how it is photographed. The default is a plain studio: even light, no noise."""

    light_from: float = 90.0
    """Direction that the light comes from, in degrees: 0 from the image's right, 90 from above."""
    light_contrast: float = 0.0
    """Relative change of brightness from the middle of the head to its edge, in [0, 1)."""
    brightness: float = 1.0
    blur: float = 0.0
    """Standard deviation of the blur, as a share of the picture's side."""
    noise: float = 0.0
    """Standard deviation of the noise, in grey levels of 255."""
    background: np.ndarray = field(default_factory=lambda: np.full((2, 2, 3), 150, np.uint8))
    """Colours (rows, columns, 3), uint8, blended into each other over the picture."""

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Scene:
        """Random light, camera and background."""
        colours = rng.uniform(20, 235) + rng.normal(0, 35, (1, 1, 3)) + rng.normal(0, 35, (4, 4, 3))
        return cls(
            light_from=rng.uniform(-30, 210),
            light_contrast=rng.uniform(0, 0.5),
            brightness=rng.uniform(0.7, 1.15),
            blur=rng.uniform(0, 0.01),
            noise=rng.uniform(0, 8),
            background=np.clip(colours, 0, 255).astype(np.uint8),
        )


@dataclass(frozen=True, eq=False)
class Face:
    """A picture and where everything in it is."""

    image: np.ndarray
    """RGB (size, size, 3), uint8."""
    landmarks: dict[str, np.ndarray]
    """Each group of `LANDMARKS`: pixels (N, 2), float32, x then y; a pixel's centre is a whole number."""


def render(
    person: Person,
    expression: Expression = NEUTRAL,
    pose: Pose | None = None,
    scene: Scene | None = None,
    size: int = 64,
    rng: np.random.Generator | None = None,
) -> Face:
    """Draw a face in a square picture of ``size`` pixels. ``rng`` draws the scene's noise and nothing else."""
    pose, scene = pose or Pose(), scene or Scene()
    assert rng is not None or scene.noise == 0, "a noisy scene needs a random generator"
    points = pose.project_all(shapes(person, expression), size)

    brush = Brush(scene.background, size, pose.unit(size))
    _paint_head(brush, person, points)
    for fold, depth in creases(person, expression):
        if depth > 0.05:
            brush.line(pose.project(fold, size), _shade(person.skin, 1 - 0.45 * depth), 0.028)
    _paint_nose(brush, person, points)
    _paint_eyes(brush, person, points)
    _paint_mouth(brush, person, points)
    brush.fill(points["fringe"], person.hair)
    for side in SIDES:
        brush.fill(points[f"{side}_brow"], _mix(person.hair, INK, 0.35))

    image = _photograph(brush.picture(), pose, scene, rng)
    return Face(image, {name: points[name] for name in LANDMARKS})


class Brush:
    """An enlarged canvas that takes coordinates in pixels of the final picture, and widths in half face heights."""

    def __init__(self, background: np.ndarray, size: int, unit: float) -> None:
        self.size, self.unit = size, unit
        side = size * SUPERSAMPLING
        self.canvas = cv2.resize(background, (side, side), interpolation=cv2.INTER_LINEAR)

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        cv2.fillPoly(self.canvas, [self._enlarge(points)], colour, shift=SUBPIXEL_BITS)

    def line(self, points: np.ndarray, colour: Colour, width: float, closed: bool = False) -> None:
        thickness = max(1, round(width * self.unit * SUPERSAMPLING))
        cv2.polylines(self.canvas, [self._enlarge(points)], closed, colour, thickness, shift=SUBPIXEL_BITS)

    def picture(self) -> np.ndarray:
        return cv2.resize(self.canvas, (self.size, self.size), interpolation=cv2.INTER_AREA)

    def _enlarge(self, points: np.ndarray) -> np.ndarray:
        larger = (points + 0.5) * SUPERSAMPLING - 0.5  # pixel centres are whole numbers in both
        return np.round(larger * 2**SUBPIXEL_BITS).astype(np.int32)


def _paint_head(brush: Brush, person: Person, points: dict[str, np.ndarray]) -> None:
    brush.fill(points["hair_behind"], _mix(person.hair, INK, 0.25))
    brush.fill(points["neck"], _shade(person.skin, 0.72))
    brush.fill(points["clothes"], person.clothes)
    for side in SIDES:
        brush.fill(points[f"{side}_ear"], _shade(person.skin, 0.85))
    brush.fill(points["face_oval"], person.skin)


def _paint_nose(brush: Brush, person: Person, points: dict[str, np.ndarray]) -> None:
    nose = points["nose"]
    brush.fill(nose[[0, 1, 2, 5, 6, 7]], _shade(person.skin, 0.9))  # the shadowed half
    brush.line(nose[3:], _shade(person.skin, 0.6), 0.03)
    for nostril in (nose[[4, 4]], nose[[6, 6]]):
        brush.line(nostril, _shade(person.skin, 0.35), 0.055)


def _paint_eyes(brush: Brush, person: Person, points: dict[str, np.ndarray]) -> None:
    for side in SIDES:
        eye = points[f"{side}_eye"]
        brush.fill(eye, WHITE)
        brush.fill(points[f"{side}_iris_disc"], person.iris)
        brush.fill(points[f"{side}_pupil"], INK)
        brush.line(eye, _shade(person.skin, 0.55), 0.016, closed=True)
        brush.line(eye[:9], INK, 0.035)  # lashes of the upper lid


def _paint_mouth(brush: Brush, person: Person, points: dict[str, np.ndarray]) -> None:
    brush.fill(points["lips_outer"], person.lips)
    brush.fill(points["lips_inner"], GAPE)
    brush.fill(points["teeth"], WHITE)
    brush.line(points["lips_inner"], _shade(person.lips, 0.45), 0.02, closed=True)


def _photograph(picture: np.ndarray, pose: Pose, scene: Scene, rng: np.random.Generator | None) -> np.ndarray:
    """Light that falls from one side, then the lens, then the sensor."""
    size = len(picture)
    if scene.blur:
        picture = cv2.GaussianBlur(picture, (0, 0), scene.blur * size)
    angle = np.radians(scene.light_from)
    x, y = (np.arange(size) - pose.centre(size)[:, None]) / pose.unit(size)
    towards_light = np.clip(x * np.cos(angle) - y[:, None] * np.sin(angle), -1, 1)
    light = scene.brightness * (1 + scene.light_contrast * towards_light)
    exposed = picture * light[:, :, None].astype(np.float32)
    if rng is not None and scene.noise:
        exposed += scene.noise * rng.standard_normal(exposed.shape, np.float32)
    return np.clip(np.round(exposed), 0, 255).astype(np.uint8)


def _shade(colour: Colour, brightness: float) -> Colour:
    red, green, blue = colour
    return red * brightness, green * brightness, blue * brightness


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (a + share * (b - a) for a, b in zip(colour, other, strict=True))
    return red, green, blue
