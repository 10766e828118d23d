"""Colours, fonts and text of the drawn pictures."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import cycle
from math import sqrt
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageColor, ImageDraw, ImageFont

from fer.classifier.predict.rows import UNCERTAIN
from fer.labels import emotion

PANEL, TRACK = "#15181d", "#2a2f37"
"""Background, and the empty part of a bar."""
INK, MUTED = "#eceef1", "#9da4ae"

# Colours that people with a colour vision deficiency can tell apart (Okabe & Ito, 2008); grey in place of black.
COLOURS = {
    "anger": "#d55e00",
    "contempt": "#e69f00",
    "disgust": "#009e73",
    "fear": "#cc79a7",
    "happiness": "#f0e442",
    "neutral": "#b4bac2",
    "sadness": "#0072b2",
    "surprise": "#56b4e9",
}
RAISED, LOWERED = "#e69f00", "#56b4e9"
"""The two ends of a heat map, and of valence and arousal."""
MIN_TEXT = 15
JPEG: dict[str, Any] = {"quality": 92, "subsampling": 0}
"""How pictures are saved: without blurred colours around the text."""


def label_colours(labels: Iterable[str]) -> dict[str, str]:
    """The colour of each label, that of its emotion; labels of no emotion get the colours in turn."""
    others = cycle(COLOURS.values())
    colours = {label: COLOURS[name] if (name := emotion(label)) else next(others) for label in labels}
    return {**colours, UNCERTAIN: INK}


def text_size(width: int, height: int) -> int:
    """Height of the text, in pixels, on a picture of this size."""
    return max(MIN_TEXT, round(sqrt(width * height) / 50))


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib; ``size`` in pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def shorten(text: str, width: float, face: ImageFont.FreeTypeFont) -> str:
    """The text, cut in the middle if it is wider than ``width`` pixels."""
    shortened, kept = text, len(text)
    while kept > 1 and face.getlength(shortened) > width:
        kept -= 1
        shortened = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shortened


def contrasting(colour: str) -> str:
    """The colour of text on a colour: dark or light."""
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return PANEL if 0.299 * red + 0.587 * green + 0.114 * blue > 95 else INK


def draw_tag(picture: Image.Image, place: tuple[float, float], text: str, size: int, colour: str) -> None:
    """Text on a filled rectangle with its lower left corner at ``place``, moved so that it stays in the picture."""
    draw = ImageDraw.Draw(picture)
    width, height = tag_size(text, size)
    left = max(0, min(round(place[0]), picture.width - width))
    top = max(0, min(round(place[1]) - height, picture.height - height))
    draw.rectangle((left, top, left + width - 1, top + height - 1), fill=colour)
    draw.text((left + width / 2, top + height / 2), text, contrasting(colour), font(size, bold=True), anchor="mm")


def tag_size(text: str, size: int) -> tuple[int, int]:
    """Width and height of a tag, in pixels."""
    return round(font(size, bold=True).getlength(text) + 0.8 * size), round(1.5 * size)
