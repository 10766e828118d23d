"""Renders a face: projects its outlines and fills them, back to front."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from fer.data.synthetic.expression import NEUTRAL, Expression
from fer.data.synthetic.geometry import LANDMARKS, SIDES, creases, face_shapes
from fer.data.synthetic.person import Colour, Person
from fer.data.synthetic.pose import Pose

SUPERSAMPLING = 4  # drawn larger by this factor, then downscaled: smooth edges
SUBPIXEL_BITS = 4  # OpenCV draws at fixed-point coordinates of 1/16 pixel

INK = (24.0, 16.0, 16.0)
WHITE = (240.0, 238.0, 235.0)
MOUTH_CAVITY = (70.0, 20.0, 24.0)


@dataclass(frozen=True, eq=False)
class Scene:
    """Light, camera and background. By default the light is even and the image without noise."""

    light_angle: float = 90.0
    """Direction of the light in degrees: 0 from the image's right, 90 from above."""
    light_contrast: float = 0.0
    """Relative change of brightness from the centre of the head to its edge, in [0, 1)."""
    brightness: float = 1.0
    blur: float = 0.0
    """Standard deviation of the blur, as a fraction of the image's side."""
    noise: float = 0.0
    """Standard deviation of the noise, in grey levels of 255."""
    background: np.ndarray = field(default_factory=lambda: np.full((2, 2, 3), 150, np.uint8))
    """Colours (rows, columns, 3), uint8, interpolated over the image."""

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Scene:
        """Random light, camera and background."""
        colours = rng.uniform(20, 235) + rng.normal(0, 35, (1, 1, 3)) + rng.normal(0, 35, (4, 4, 3))
        return cls(
            light_angle=rng.uniform(-30, 210),
            light_contrast=rng.uniform(0, 0.5),
            brightness=rng.uniform(0.7, 1.15),
            blur=rng.uniform(0, 0.01),
            noise=rng.uniform(0, 8),
            background=np.clip(colours, 0, 255).astype(np.uint8),
        )


@dataclass(frozen=True, eq=False)
class RenderedFace:
    """An image of a face with its landmarks."""

    image: np.ndarray
    """RGB (size, size, 3), uint8."""
    landmarks: dict[str, np.ndarray]
    """Each group of `LANDMARKS`: pixels (x, y), (N, 2) float32; pixel centres are integers."""


def render(
    person: Person,
    expression: Expression = NEUTRAL,
    pose: Pose | None = None,
    scene: Scene | None = None,
    size: int = 64,
    rng: np.random.Generator | None = None,
) -> RenderedFace:
    """Render a face in a square image of ``size`` pixels. ``rng`` is only needed for a scene with noise."""
    pose, scene = pose or Pose(), scene or Scene()
    assert rng is not None or scene.noise == 0, "a noisy scene needs a random generator"
    points = pose.project_all(face_shapes(person, expression), size)

    canvas = Canvas(scene.background, size, pose.unit(size))
    _paint_head(canvas, person, points)
    for fold, depth in creases(person, expression):
        if depth > 0.05:
            canvas.line(pose.project(fold, size), _shade(person.skin, 1 - 0.45 * depth), 0.028)
    _paint_nose(canvas, person, points)
    _paint_eyes(canvas, person, points)
    _paint_mouth(canvas, person, points)
    canvas.fill(points["fringe"], person.hair)
    for side in SIDES:
        canvas.fill(points[f"{side}_brow"], _mix(person.hair, INK, 0.35))

    image = _photograph(canvas.image(), pose, scene, rng)
    return RenderedFace(image, {name: points[name] for name in LANDMARKS})


class Canvas:
    """A supersampled canvas. Coordinates are in pixels of the final image, widths in half face heights."""

    def __init__(self, background: np.ndarray, size: int, unit: float) -> None:
        self.size, self.unit = size, unit
        side = size * SUPERSAMPLING
        self.pixels = cv2.resize(background, (side, side), interpolation=cv2.INTER_LINEAR)

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        cv2.fillPoly(self.pixels, [self._enlarge(points)], colour, shift=SUBPIXEL_BITS)

    def line(self, points: np.ndarray, colour: Colour, width: float, closed: bool = False) -> None:
        thickness = max(1, round(width * self.unit * SUPERSAMPLING))
        cv2.polylines(self.pixels, [self._enlarge(points)], closed, colour, thickness, shift=SUBPIXEL_BITS)

    def image(self) -> np.ndarray:
        return cv2.resize(self.pixels, (self.size, self.size), interpolation=cv2.INTER_AREA)

    def _enlarge(self, points: np.ndarray) -> np.ndarray:
        larger = (points + 0.5) * SUPERSAMPLING - 0.5  # pixel centres are integers at both sizes
        return np.round(larger * 2**SUBPIXEL_BITS).astype(np.int32)


def _paint_head(canvas: Canvas, person: Person, points: dict[str, np.ndarray]) -> None:
    canvas.fill(points["hair_behind"], _mix(person.hair, INK, 0.25))
    canvas.fill(points["neck"], _shade(person.skin, 0.72))
    canvas.fill(points["clothes"], person.clothes)
    for side in SIDES:
        canvas.fill(points[f"{side}_ear"], _shade(person.skin, 0.85))
    canvas.fill(points["face_oval"], person.skin)


def _paint_nose(canvas: Canvas, person: Person, points: dict[str, np.ndarray]) -> None:
    nose = points["nose"]
    canvas.fill(nose[[0, 1, 2, 5, 6, 7]], _shade(person.skin, 0.9))  # the shadowed half
    canvas.line(nose[3:], _shade(person.skin, 0.6), 0.03)
    for nostril in (nose[[4, 4]], nose[[6, 6]]):
        canvas.line(nostril, _shade(person.skin, 0.35), 0.055)


def _paint_eyes(canvas: Canvas, person: Person, points: dict[str, np.ndarray]) -> None:
    for side in SIDES:
        eye = points[f"{side}_eye"]
        canvas.fill(eye, WHITE)
        canvas.fill(points[f"{side}_iris_disc"], person.iris)
        canvas.fill(points[f"{side}_pupil"], INK)
        canvas.line(eye, _shade(person.skin, 0.55), 0.016, closed=True)
        canvas.line(eye[:9], INK, 0.035)  # lashes of the upper lid


def _paint_mouth(canvas: Canvas, person: Person, points: dict[str, np.ndarray]) -> None:
    canvas.fill(points["lips_outer"], person.lips)
    canvas.fill(points["lips_inner"], MOUTH_CAVITY)
    canvas.fill(points["teeth"], WHITE)
    canvas.line(points["lips_inner"], _shade(person.lips, 0.45), 0.02, closed=True)


def _photograph(image: np.ndarray, pose: Pose, scene: Scene, rng: np.random.Generator | None) -> np.ndarray:
    """Apply directional light, blur and sensor noise."""
    size = len(image)
    if scene.blur:
        image = cv2.GaussianBlur(image, (0, 0), scene.blur * size)
    angle = np.radians(scene.light_angle)
    x, y = (np.arange(size) - pose.centre(size)[:, None]) / pose.unit(size)
    towards_light = np.clip(x * np.cos(angle) - y[:, None] * np.sin(angle), -1, 1)
    light = scene.brightness * (1 + scene.light_contrast * towards_light)
    exposed = image * light[:, :, None].astype(np.float32)
    if rng is not None and scene.noise:
        exposed += scene.noise * rng.standard_normal(exposed.shape, np.float32)
    return np.clip(np.round(exposed), 0, 255).astype(np.uint8)


def _shade(colour: Colour, brightness: float) -> Colour:
    red, green, blue = colour
    return red * brightness, green * brightness, blue * brightness


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (a + share * (b - a) for a, b in zip(colour, other, strict=True))
    return red, green, blue
