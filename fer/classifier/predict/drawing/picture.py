"""Annotated pictures: a box and a label on each face, and beside or below the picture a card for each."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np
from PIL import Image, ImageDraw

from fer.classifier.predict.drawing.card import CardPainter, Face
from fer.classifier.predict.drawing.style import INK, PANEL, draw_tag, label_colours, tag_size, text_size
from fer.classifier.predict.rows import UNCERTAIN, PredictionRow, percent
from fer.faces.box import FaceBox, crop
from fer.faces.options import MARGIN

MIN_SIDE, MAX_SIDE = 640, 3840
"""The longer side of a picture, in pixels: smaller ones are enlarged, larger ones reduced."""
SCREEN = 1.6
"""Width of a screen, divided by its height."""
MAX_CARDS = 48
"""Cards of a picture; smaller faces have a box only."""
FULL_SIZE_CARDS, MIN_CARD_SCALE = 6, 0.6
"""With more cards, their text is smaller."""


class Page:
    """The layout of a picture with cards, for one picture or all frames of a video.

    ``size`` is the picture's width and height; ``labels`` and ``affect`` say what the cards show. With ``explained``,
    they show heat maps, too. All sides are even, as H.264 needs them.
    """

    def __init__(
        self, size: tuple[int, int], labels: Sequence[str], affect: bool, cards: int, explained: bool = False
    ) -> None:
        longer = max(size)
        self.scale = MIN_SIDE / longer if longer < MIN_SIDE else min(1.0, MAX_SIDE / longer)
        self.photo = even(round(size[0] * self.scale)), even(round(size[1] * self.scale))
        self.text = text_size(*self.photo)
        self.colours = label_colours(labels)
        card_scale = max(MIN_CARD_SCALE, min(1.0, sqrt(FULL_SIZE_CARDS / max(cards, 1))))
        self.painter = CardPainter(round(self.text * card_scale), labels, affect, cards > 1, explained)
        self._arrange(cards)

    def _arrange(self, cards: int) -> None:
        """Put the cards beside the picture or below it, in as many columns as fit best on a screen."""
        (width, height), card = self.photo, self.painter
        layouts = {self.photo: (0, 0, 1)}  # left, top and columns of the cards, by the size of the page
        if cards:
            layouts = {}
            for columns in range(1, cards + 1):
                high = ceil(cards / columns) * card.height
                layouts[width + columns * card.width, max(height, high)] = width, 0, columns
                layouts[max(width, columns * card.width), height + high] = 0, height, columns
        page = min(layouts, key=lambda size: (max(size[0] / SCREEN, size[1]), size[0] * size[1]))
        left, top, columns = layouts[page]
        self.size = even(page[0]), even(page[1])
        self.card_width = (page[0] - left) // columns
        self.corners = [
            (left + number % columns * self.card_width, top + number // columns * card.height)
            for number in range(cards)
        ]

    def draw(self, image: np.ndarray, rows: Sequence[PredictionRow], faces: Sequence[Face | None]) -> Image.Image:
        """The page of an RGB image (H, W, 3) uint8: the boxes of all ``rows``, and a card for each of ``faces``."""
        page = Image.new("RGB", self.size, PANEL)
        photo = Image.fromarray(image)
        if photo.size != self.photo:
            photo = photo.resize(self.photo, Image.Resampling.LANCZOS)
        for row in rows:
            self._draw_box(photo, row)
        for row in rows:  # the text is never behind a box
            self._draw_text(photo, row)
        page.paste(photo, (0, 0))
        for corner, face in zip(self.corners, faces, strict=True):
            self.painter.paint(page, corner, self.card_width, face)
        return page

    def _draw_box(self, photo: Image.Image, row: PredictionRow) -> None:
        if row.box is None:
            return  # the picture is the face
        left, top, right, bottom = self._corners(row.box)
        draw, stroke = ImageDraw.Draw(photo), max(2, self.text // 6)
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=PANEL, width=stroke + 2)
        draw.rectangle((left, top, right, bottom), outline=self.colours.get(row.label or "", INK), width=stroke)

    def _draw_text(self, photo: Image.Image, row: PredictionRow) -> None:
        """Write the label on the box, or why there is none."""
        if row.error is not None:
            draw_tag(photo, (0, 0), row.error, self.text, PANEL)
        elif row.box is not None:
            left, top, right, _ = self._corners(row.box)
            text = self._tag_text(row, right - left)
            draw_tag(photo, (left, top), text, self.text, self.colours.get(row.label or "", INK))

    def _corners(self, box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
        """Left, top, right and bottom on the page, of a box in the image."""
        left, top, width, height = (self.scale * value for value in box)
        return round(left), round(top), round(left + width), round(top + height)

    def _tag_text(self, row: PredictionRow, width: float) -> str:
        """The face's number, label and confidence, or what of it fits on a box of ``width`` pixels."""
        number, label = str(row.face), row.label or ""
        shown = row.confidence is not None and label != UNCERTAIN
        full = f"{label} {percent(row.confidence or 0.0)}" if shown else label
        if full and not self.painter.numbered:
            return full
        texts = f"{number} {full}", f"{number} {label}"
        return next((text for text in texts if tag_size(text, self.text)[0] <= 1.4 * width), number)


def draw_faces(
    image: np.ndarray, rows: Sequence[PredictionRow], maps: Sequence[np.ndarray] | None = None, margin: float = MARGIN
) -> Image.Image:
    """An annotated copy of an RGB image (H, W, 3) uint8, whose predictions are ``rows``.

    The first `MAX_CARDS` faces get a card; ``maps`` are what moved their scores, from `fer.classifier.predict.explain`.
    """
    carded = [row for row in rows if row.error is None][:MAX_CARDS]
    influences: Sequence[np.ndarray | None] = maps if maps is not None else [None] * len(carded)
    faces = [Face(row, face_pixels(image, row, margin), each) for row, each in zip(carded, influences, strict=True)]
    height, width = image.shape[:2]
    page = Page((width, height), *content(rows), len(faces), maps is not None)
    picture = page.draw(image, rows, faces)
    if len(rows) > MAX_CARDS:
        draw_tag(picture, (0, page.photo[1]), f"{len(rows) - MAX_CARDS} smaller faces have no bars", page.text, PANEL)
    return picture


def content(rows: Sequence[PredictionRow]) -> tuple[tuple[str, ...], bool]:
    """The labels of the predictions, and whether they have valence and arousal."""
    labels = next((tuple(row.scores) for row in rows if row.scores), ())
    return labels, any(row.valence is not None for row in rows)


def face_pixels(image: np.ndarray, row: PredictionRow, margin: float) -> np.ndarray:
    """The face of a row as the network saw it: a crop around its box, or the whole image."""
    return image if row.box is None or row.whole_image else crop(image, FaceBox(*row.box), margin)


def even(length: int) -> int:
    """The next even number of pixels, at least 2."""
    return max(2, length + length % 2)
