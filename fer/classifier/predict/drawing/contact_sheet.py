"""Contact sheets: the faces of many pictures in a grid, each with its label."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from fer.classifier.predict.drawing.card import Face
from fer.classifier.predict.drawing.style import (
    INK,
    JPEG,
    MUTED,
    PANEL,
    TRACK,
    font,
    label_colours,
    shorten,
)
from fer.classifier.predict.rows import PredictionRow, percent

COLUMNS, ROWS = 8, 6
SIDE, GAP, TEXT = 160, 16, 15
"""Of a face, between faces and of the text, in pixels."""
CAPTION = round(3.2 * TEXT)


class ContactSheets:
    """Writes the pages `contact-sheet-1.jpg`, `contact-sheet-2.jpg` and so on into a folder, each when it is full."""

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self.folder, self.colours = folder, label_colours(labels)
        self.pages = 0
        self._begin()

    def _begin(self) -> None:
        self.cells = 0
        self.page = Image.new("RGB", _page_size(COLUMNS, ROWS), PANEL)

    def add(self, face: Face) -> None:
        """Add a face, or a picture without one, which is shown as such."""
        row, column = divmod(self.cells, COLUMNS)
        self._paint(face, GAP + column * (SIDE + GAP), GAP + row * (SIDE + CAPTION + GAP))
        self.cells += 1
        if self.cells == COLUMNS * ROWS:
            self.finish()

    def finish(self) -> None:
        """Write the current page, cut to the cells that it has."""
        if not self.cells:
            return
        self.pages += 1
        size = _page_size(min(self.cells, COLUMNS), ceil(self.cells / COLUMNS))
        self.page.crop((0, 0, *size)).save(self.folder / f"contact-sheet-{self.pages}.jpg", **JPEG)
        self._begin()

    def _paint(self, face: Face, left: int, top: int) -> None:
        draw, row = ImageDraw.Draw(self.page), face.row
        draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), fill=TRACK)
        picture = ImageOps.contain(Image.fromarray(face.pixels), (SIDE, SIDE), Image.Resampling.LANCZOS)
        if row.error is not None:
            picture = picture.convert("L").point(lambda value: value // 2 + 20).convert("RGB")
        self.page.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
        colour = self.colours.get(row.label or "", MUTED)
        draw.rectangle((left, top + SIDE, left + SIDE - 1, top + SIDE + 3), fill=TRACK if row.error else colour)
        bold, small = font(TEXT, bold=True), font(round(0.8 * TEXT))
        value = percent(row.confidence) if row.confidence is not None else ""
        below = top + SIDE + 0.5 * TEXT
        draw.text((left + SIDE, below), value, INK, font(TEXT), anchor="ra")
        title = shorten(_title(row), SIDE - font(TEXT).getlength(value + " "), bold)
        draw.text((left, below), title, MUTED if row.error else INK, bold)
        draw.text((left, below + 1.4 * TEXT), shorten(Path(row.path).name, SIDE, small), MUTED, small)


def _title(row: PredictionRow) -> str:
    """The label; else the error, or valence and arousal."""
    if row.valence is not None and row.label is None:
        return f"{row.valence:+.2f} / {row.arousal:+.2f}"
    return row.label or row.error or ""


def _page_size(columns: int, rows: int) -> tuple[int, int]:
    return GAP + columns * (SIDE + GAP), GAP + rows * (SIDE + CAPTION + GAP)
