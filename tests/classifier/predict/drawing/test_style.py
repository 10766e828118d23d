"""Colours and text of drawn pictures."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageColor

from fer.classifier.predict.drawing.style import (
    INK,
    PANEL,
    contrasting,
    draw_tag,
    font,
    label_colours,
    shorten,
    text_size,
)
from fer.classifier.predict.rows import UNCERTAIN
from fer.labels import EMOTIONS, SPACES, emotion


def test_a_label_has_the_colour_of_its_emotion_in_every_label_space() -> None:
    colours = label_colours(EMOTIONS)
    for space in SPACES.values():
        for label, colour in label_colours(space.labels).items():
            if (name := emotion(label)) is not None:
                assert colour == colours[name]


def test_labels_of_no_emotion_have_colours_too() -> None:
    colours = label_colours(SPACES["rafdb-compound"].labels)
    assert set(colours) == {*SPACES["rafdb-compound"].labels, UNCERTAIN}
    assert len({colours[label] for label in SPACES["rafdb-compound"].labels[:8]}) == 8


@pytest.mark.parametrize(
    "simulation",
    [  # of protanopia and deuteranopia at full strength (Machado, Oliveira & Fernandes, 2009)
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ],
)
def test_colours_can_be_told_apart_without_red_or_green_cones(simulation: list[list[float]]) -> None:
    colours = {name: np.array(ImageColor.getrgb(label_colours([name])[name])) / 255 for name in EMOTIONS}
    linear = {name: np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for name, c in colours.items()}
    seen = {name: np.clip(np.array(simulation) @ c, 0, 1) ** (1 / 2.2) for name, c in linear.items()}
    assert min(np.abs(seen[one] - seen[two]).max() for one, two in combinations(EMOTIONS, 2)) > 0.1


def test_text_grows_with_the_picture() -> None:
    assert text_size(10, 10) == text_size(500, 500) == 15
    assert text_size(4000, 3000) == pytest.approx(2 * text_size(2000, 1500), abs=1)


def test_long_text_is_cut_in_the_middle() -> None:
    assert shorten("happy", 500, font(15)) == "happy"
    cut = shorten("a-very-long-name-of-a-file-0001.jpg", 150, font(15))
    assert cut.startswith("a-ve")
    assert cut.endswith("1.jpg")
    assert font(15).getlength(cut) <= 150


@pytest.mark.parametrize("place", [(-20, 5), (0, 0), (90, 500), (400, 20)])
def test_a_tag_stays_in_the_picture(place: tuple[int, int]) -> None:
    picture = Image.new("RGB", (100, 60), "#ff00ff")
    draw_tag(picture, place, "fear", 20, PANEL)
    rows, columns = np.nonzero((np.asarray(picture) != (255, 0, 255)).any(axis=2))
    assert (columns.max() - columns.min() + 1, rows.max() - rows.min() + 1) == pytest.approx((62, 30), abs=4)


def test_text_contrasts_with_its_colour() -> None:
    for colour in label_colours(EMOTIONS).values():
        assert contrast(colour, contrasting(colour)) > 3.5
    assert contrasting(PANEL) == INK


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    rgb = np.array(ImageColor.getrgb(colour)) / 255
    return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])
