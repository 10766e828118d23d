"""The card of a face: its label, the distribution over the labels as bars, and what moved the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from fer.classifier.predict.drawing.style import (
    INK,
    LOWERED,
    MUTED,
    RAISED,
    TRACK,
    font,
    label_colours,
    shorten,
)
from fer.classifier.predict.rows import UNCERTAIN, PredictionRow, percent

AFFECT = ("valence", "arousal")
MAP_CELLS = 20


@dataclass(frozen=True)
class Face:
    """A face and its prediction."""

    row: PredictionRow
    pixels: np.ndarray
    """RGB (H, W, 3) uint8."""
    influence: np.ndarray | None = None
    """What each pixel did to the score, (S, S), from `fer.classifier.predict.explain`."""


class CardPainter:
    """Paints cards of one height, with text of ``size`` pixels.

    ``labels`` and ``affect`` say which bars there are. With ``numbered``, a card shows the face and its number; with
    ``explained``, a heat map. ``width`` is the least that a card needs.
    """

    def __init__(
        self, size: int, labels: Sequence[str], affect: bool, numbered: bool = False, explained: bool = False
    ) -> None:
        self.size, self.numbered = size, numbered
        self.bars = [*labels, *AFFECT] if affect else list(labels)
        self.colours = label_colours(labels)
        self.pad, self.line, self.header = size, round(1.5 * size), round(3.6 * size)
        self.name_width = max((font(size, bold=True).getlength(name) for name in self.bars), default=0)
        self.value_width = font(size).getlength("+0.00 " if affect else "100% ")
        self.map_side = 15 * size if explained else 0
        inner = self.header + len(self.bars) * self.line
        self.height = 2 * self.pad + max(inner, self.map_side + 4 * size if explained else 0)
        text_width = self.name_width + 11 * size + self.value_width
        self.width = round(2 * self.pad + text_width + (self.map_side + self.pad if explained else 0))

    def paint(self, page: Image.Image, corner: tuple[int, int], width: int, face: Face | None) -> None:
        """Paint a card of ``width`` pixels with its upper left corner at ``corner``; without a face, an empty one."""
        left, top, right = corner[0] + self.pad, corner[1] + self.pad, corner[0] + width - self.pad
        if face is not None:
            colour, thick = self.colours.get(face.row.label or "", MUTED), max(2, self.size // 5)
            edge = (left, top, left + thick - 1, corner[1] + self.height - self.pad - 1)
            ImageDraw.Draw(page).rectangle(edge, fill=colour)
        left += self.pad
        if self.map_side:
            right -= self.map_side + self.pad
            if face is not None and face.influence is not None:
                self._paint_map(page, (right + self.pad, top), face, face.influence)
        self._paint_header(page, (left, top, right), face)
        self._paint_bars(ImageDraw.Draw(page), (left, top + self.header, right), face.row if face else None)

    def _paint_header(self, page: Image.Image, place: tuple[int, int, int], face: Face | None) -> None:
        draw, (left, top, right) = ImageDraw.Draw(page), place
        large, small = font(round(1.3 * self.size), bold=True), font(round(0.9 * self.size))
        side = self.header - round(0.6 * self.size)
        if face is None:
            draw.text((left, top + side / 2), "not in the picture", MUTED, small, anchor="lm")
            return
        if self.numbered:
            thumbnail = Image.fromarray(face.pixels).resize((side, side), Image.Resampling.LANCZOS)
            page.paste(thumbnail, (left, top))
            left += side + self.pad
        title, value, subtitle = self._headings(face.row)
        middle = top + (0.28 if subtitle else 0.5) * side
        draw.text((right, middle), value, INK, large, anchor="rm")
        draw.text((left, middle), shorten(title, right - left - large.getlength(value), large), INK, large, anchor="lm")
        draw.text((left, top + 0.8 * side), shorten(subtitle, right - left, small), MUTED, small, anchor="lm")

    def _headings(self, row: PredictionRow) -> tuple[str, str, str]:
        """Title, the value beside it, and the line below."""
        details = [f"face {row.face}"] if self.numbered else []
        if row.label is None or row.confidence is None:
            return "".join(details), "", ""
        value = percent(row.confidence)
        if row.label == UNCERTAIN:
            details.append(f"{row.best_label} {value}")
            value = ""
        details += [row.compound] if row.compound else []
        return row.label, value, " · ".join(details)

    def _paint_bars(self, draw: ImageDraw.ImageDraw, place: tuple[int, int, int], row: PredictionRow | None) -> None:
        left, top, right = place
        start, end = left + self.name_width + 0.7 * self.size, right - self.value_width
        best = row.best_label if row else None
        for number, name in enumerate(self.bars):
            middle = top + (number + 0.5) * self.line
            low, high = middle - 0.36 * self.size, middle + 0.36 * self.size
            ink, bold = (INK, True) if name == best else (MUTED, False)
            draw.text((left, middle), name, ink, font(self.size, bold), anchor="lm")
            draw.rectangle((start, low, end, high), fill=TRACK)
            signed = name in AFFECT
            value = None if row is None else getattr(row, name) if signed else (row.scores or {}).get(name)
            if value is None:
                continue
            origin, unit = ((start + end) / 2, (end - start) / 2) if signed else (start, end - start)
            colour = (RAISED if value > 0 else LOWERED) if signed else self.colours[name]
            tip = origin + value * unit
            if abs(tip - origin) >= 1:
                draw.rectangle((min(origin, tip), low, max(origin, tip), high), fill=colour)
            text = f"{value:+.2f}" if signed else percent(value)
            draw.text((right, middle), text, ink, font(self.size), anchor="rm")

    def _paint_map(self, page: Image.Image, corner: tuple[int, int], face: Face, influence: np.ndarray) -> None:
        draw, (left, top) = ImageDraw.Draw(page), corner
        page.paste(heat_map(face.pixels, influence, self.map_side), corner)
        small, line = font(round(0.8 * self.size)), 1.25 * self.size
        first = top + self.map_side + 0.9 * self.size
        text = f"what moved the score of {face.row.best_label}"
        draw.text((left, first), shorten(text, self.map_side, small), INK, small, anchor="lm")
        x = float(left)
        for colour, text in ((RAISED, "raised it"), (LOWERED, "lowered it")):
            half = 0.35 * self.size
            draw.rectangle((x, first + line - half, x + 2 * half, first + line + half), fill=colour)
            draw.text((x + self.size, first + line), text, MUTED, small, anchor="lm")
            x += small.getlength(text) + 2 * self.size
        points = f"by up to {100 * float(np.abs(influence).max()):.0f} percentage points"
        draw.text((left, first + 2 * line), points, MUTED, small, anchor="lm")


def heat_map(face: np.ndarray, influence: np.ndarray, side: int) -> Image.Image:
    """The face in grey, with the colours of what raised and lowered the score; square, ``side`` pixels."""
    grey = Image.fromarray(face).convert("L").resize((side, side), Image.Resampling.LANCZOS)
    values = Image.fromarray(influence.astype(np.float32)).resize((MAP_CELLS, MAP_CELLS), Image.Resampling.BOX)
    values = values.resize((side, side), Image.Resampling.BICUBIC)  # without the edges of the patches
    strength = np.asarray(values)[..., None] / max(float(np.abs(influence).max()), 1e-9)
    lowered, raised = (np.array(ImageColor.getrgb(colour), np.float32) for colour in (LOWERED, RAISED))
    alpha = 0.8 * np.abs(strength).clip(max=1)
    pixels = (1 - alpha) * np.asarray(grey, np.float32)[..., None] + alpha * np.where(strength > 0, raised, lowered)
    return Image.fromarray(pixels.astype(np.uint8))
