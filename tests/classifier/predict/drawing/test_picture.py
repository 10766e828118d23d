"""Annotated pictures: their layout at any size, boxes, bars, and pictures without a prediction."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageColor

from fer.classifier.predict.drawing.picture import MAX_CARDS, Page, draw_faces, face_pixels
from fer.classifier.predict.drawing.style import INK, PANEL, label_colours
from fer.classifier.predict.rows import NO_FACE, UNCERTAIN, PredictionRow
from fer.labels import get_space

Make = Callable[..., PredictionRow]
GREY = np.full((480, 640, 3), 90, np.uint8)
COLOURS = label_colours(["anger", "happiness", "sadness"])


def pixels_of(picture: Image.Image, colour: str) -> np.ndarray:
    """Where a picture has exactly this colour, (H, W) bool."""
    return (np.asarray(picture) == ImageColor.getrgb(colour)).all(axis=2)


@pytest.mark.parametrize("size", [(1, 1), (48, 48), (640, 361), (12, 5000), (9000, 400), (6000, 4000)])
@pytest.mark.parametrize("cards", [0, 1, 2, 6, MAX_CARDS])
def test_a_page_has_room_for_the_picture_and_its_cards(size: tuple[int, int], cards: int) -> None:
    page = Page(size, get_space("ferplus").labels, True, cards, explained=True)
    width, height = page.size
    assert width % 2 == height % 2 == 0
    assert 640 <= max(page.photo) <= 3840
    assert page.text >= 15
    photo = (0, 0, *page.photo)
    boxes = [(x, y, x + page.card_width, y + page.painter.height) for x, y in page.corners]
    assert len(boxes) == cards
    assert all(right <= width and bottom <= height for _, _, right, bottom in [photo, *boxes])
    for one, two in combinations([photo, *boxes], 2):
        assert one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]


def test_a_box_is_drawn_where_the_face_is_in_the_colour_of_its_label(make_row: Make) -> None:
    picture = draw_faces(GREY, [make_row(face=0, box=(200, 150, 100, 120))])
    photo = pixels_of(picture, COLOURS["happiness"])[:480, :640]
    rows, columns = np.nonzero(photo[155:])  # below the tag
    assert (columns.min(), columns.max(), rows.max() + 155) == (200, 300, 270)
    assert not photo[160:260, 210:290].any()


def test_a_face_is_shown_as_the_network_saw_it(make_row: Make) -> None:
    assert face_pixels(GREY, make_row(face=0, box=(200, 150, 100, 120)), 0.25).shape == (180, 180, 3)
    assert face_pixels(GREY, make_row(face=0, box=(0, 0, 640, 480), whole_image=True), 0.25) is GREY


def test_boxes_follow_the_scale_of_the_picture(make_row: Make) -> None:
    small = np.full((80, 80, 3), 90, np.uint8)
    picture = draw_faces(small, [make_row(face=0, box=(16, 32, 32, 16))])
    rows, columns = np.nonzero(pixels_of(picture, COLOURS["happiness"])[260:, :640])
    assert (columns.min(), columns.max(), rows.max() + 260) == (128, 384, 384)


def test_bars_are_as_long_as_the_probabilities(make_row: Make) -> None:
    picture = draw_faces(GREY, [make_row(scores={"anger": 0.0, "happiness": 0.75, "sadness": 0.25})])
    lengths = {label: longest_run(pixels_of(picture, colour)) for label, colour in COLOURS.items()}
    assert lengths["happiness"] == pytest.approx(3 * lengths["sadness"], abs=3)
    assert lengths["sadness"] > 30
    assert lengths["anger"] < 3


def test_valence_and_arousal_have_bars_from_the_middle(make_row: Make) -> None:
    values = {"label": None, "scores": None, "confidence": None, "arousal": -0.25}
    half, full = (draw_faces(GREY, [make_row(**values, valence=value)]) for value in (0.5, 1.0))
    raised = [longest_run(pixels_of(picture, "#e69f00")) for picture in (half, full)]
    assert raised[1] == pytest.approx(2 * raised[0], abs=3)
    assert longest_run(pixels_of(half, "#56b4e9")) == pytest.approx(raised[0] / 2, abs=3)


def test_an_uncertain_face_has_no_colour_of_a_label_around_it(make_row: Make) -> None:
    picture = draw_faces(GREY, [make_row(face=0, box=(200, 150, 100, 120), label=UNCERTAIN)])
    assert not pixels_of(picture, COLOURS["happiness"])[:480, :640].any()
    assert pixels_of(picture, INK)[160:260, 200].all()


def test_a_picture_without_a_face_says_so(make_row: Make) -> None:
    picture = draw_faces(GREY, [PredictionRow(path="a.png", error=NO_FACE)])
    assert picture.size == (640, 480)
    changed = (np.asarray(picture) != 90).any(axis=2)
    assert changed[:20, :100].all()
    assert not changed[40:].any()
    assert pixels_of(picture, PANEL).any()


def test_many_faces_have_a_box_each_and_the_first_a_card(make_row: Make) -> None:
    rows = [make_row(face=n, box=(10.0 * n, 20, 8, 8)) for n in range(MAX_CARDS + 2)]
    picture = draw_faces(np.zeros((800, 1200, 3), np.uint8), rows)
    assert max(picture.size) < 8000


def test_the_image_is_left_as_it_is(make_row: Make) -> None:
    image = GREY.copy()
    image.flags.writeable = False
    draw_faces(image, [make_row(face=0, box=(200, 150, 100, 120))])
    np.testing.assert_array_equal(image, GREY)


def test_a_heat_map_is_added_to_the_card(make_row: Make) -> None:
    row = make_row(face=0, box=(200, 150, 100, 120))
    influence = np.zeros((20, 20), np.float32)
    influence[:10], influence[15:] = 0.5, -0.1
    plain, explained = draw_faces(GREY, [row]), draw_faces(GREY, [row], [influence])
    assert explained.width * explained.height > plain.width * plain.height


def longest_run(mask: np.ndarray) -> int:
    """The longest horizontal line in a mask (H, W)."""
    return max((len(run) for line in mask for run in "".join("x" if on else " " for on in line).split()), default=0)
