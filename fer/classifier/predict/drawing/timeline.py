"""The strip under a video: the scores of its main face over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from fer.classifier.predict.drawing.card import AFFECT
from fer.classifier.predict.drawing.style import INK, LOWERED, MUTED, PANEL, RAISED, TRACK, font, label_colours
from fer.classifier.predict.rows import PredictionRow
from fer.classifier.predict.tracks import smooth

HEIGHT = 9
"""In units of the text size."""
SUPERSAMPLING = 3
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
"""Steps of the time axis, in seconds."""


class Timeline:
    """A strip ``width`` pixels wide with the scores of one face over a video of ``duration`` seconds.

    ``rows`` are the face's, in the order of time; its number is shown if ``numbered``. The distribution is drawn as
    stacked areas; the valence and arousal of a model without ``labels`` are drawn as lines.
    """

    def __init__(
        self,
        width: int,
        text: int,
        rows: Sequence[PredictionRow],
        labels: Sequence[str],
        duration: float,
        numbered: bool = False,
    ) -> None:
        self.duration = max(duration, 1e-3)
        self.left, self.right = text, width - text
        self.top, self.bottom = 2 * text, (HEIGHT - 2) * text
        self.strip = Image.new("RGB", (width, HEIGHT * text), PANEL)
        self.strip.paste(self._plot(rows, labels), (self.left, self.top))
        scores = "scores" if labels else " and ".join(AFFECT)
        self._paint_text(text, f"{scores} of face {rows[0].face} over time" if numbered else f"{scores} over time")

    def draw(self, seconds: float) -> Image.Image:
        """The strip with its cursor at a time."""
        strip, x = self.strip.copy(), self._x(seconds)
        draw = ImageDraw.Draw(strip)
        draw.rectangle((x - 2, self.top - 4, x + 2, self.bottom + 3), fill=PANEL)
        draw.rectangle((x - 1, self.top - 3, x + 1, self.bottom + 2), fill=INK)
        return strip

    def _x(self, seconds: float) -> int:
        return self.left + round((self.right - self.left - 1) * min(seconds / self.duration, 1.0))

    def _plot(self, rows: Sequence[PredictionRow], labels: Sequence[str]) -> Image.Image:
        size = self.right - self.left, self.bottom - self.top
        width, height = (SUPERSAMPLING * side for side in size)
        if labels:
            values = self._sample(rows, [[(row.scores or {})[label] for label in labels] for row in rows], width)
            plot = _stack(values, [label_colours(labels)[label] for label in labels], height)
        else:
            plot = _lines(self._sample(rows, [[row.valence, row.arousal] for row in rows], width), height)
        return plot.resize(size, Image.Resampling.BOX)

    def _sample(
        self, rows: Sequence[PredictionRow], values: Sequence[Sequence[float | None]], width: int
    ) -> np.ndarray:
        """Values (T, K) at each of ``width`` columns, (width, K); NaN where the face is not in the picture."""
        seconds = np.array([row.seconds for row in rows])
        means = smooth(np.array(values, float), seconds, self.duration / width)
        times = (np.arange(width) + 0.5) * self.duration / width
        sampled = np.stack([np.interp(times, seconds, column) for column in means.T], axis=1)
        step = np.median(np.diff(seconds)) if len(seconds) > 1 else 0.0
        after = np.searchsorted(seconds, times).clip(max=len(seconds) - 1)
        distance = np.minimum(np.abs(times - seconds[after]), np.abs(times - seconds[(after - 1).clip(min=0)]))
        sampled[distance > max(1.01 * step, SUPERSAMPLING * self.duration / width)] = np.nan
        return sampled

    def _paint_text(self, text: int, title: str) -> None:
        draw, small = ImageDraw.Draw(self.strip), font(round(0.85 * text))
        draw.text((self.left, self.top / 2), title, MUTED, small, anchor="lm")
        most = max(2, (self.right - self.left) // (6 * text))
        step = next((tick for tick in TICKS if self.duration / tick <= most), TICKS[-1])
        for number in range(int(self.duration / step) + 1):
            seconds = number * step
            anchor = "la" if number == 0 else "ma"
            draw.text((self._x(seconds), self.bottom + 0.4 * text), _clock(seconds, step), MUTED, small, anchor=anchor)


def main_track(rows: Sequence[PredictionRow]) -> list[PredictionRow]:
    """The rows of the face that takes up most of a video: the largest area, summed over its frames."""
    tracks: dict[int | None, list[PredictionRow]] = {}
    for row in rows:
        if row.error is None:
            tracks.setdefault(row.face, []).append(row)
    return max(tracks.values(), key=lambda track: sum(row.box[2] * row.box[3] for row in track if row.box), default=[])


def _stack(values: np.ndarray, colours: Sequence[str], height: int) -> Image.Image:
    """Stacked areas of distributions (W, K), from below; NaN is left empty."""
    levels = (np.arange(height)[::-1, None] + 0.5) / height
    tops = values.cumsum(axis=1) / values.sum(axis=1, keepdims=True)
    area = sum((tops[:, k] < levels).astype(int) for k in range(len(colours) - 1))
    area = np.where(np.isnan(values[:, 0]), len(colours), area)
    palette = np.array([ImageColor.getrgb(colour) for colour in (*colours, TRACK)], np.uint8)
    return Image.fromarray(palette[area])


def _lines(values: np.ndarray, height: int) -> Image.Image:
    """Lines of values (W, 2) in [-1, 1]; NaN is left empty."""
    plot = Image.new("RGB", (len(values), height), TRACK)
    draw = ImageDraw.Draw(plot)
    draw.line((0, height / 2, len(values), height / 2), PANEL, SUPERSAMPLING)
    for column, colour in zip(values.T, (RAISED, LOWERED), strict=True):
        seen = np.flatnonzero(~np.isnan(column))
        for run in np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1):
            points = [(float(x), float((1 - column[x]) / 2 * height)) for x in run]
            draw.line(points, colour, 2 * SUPERSAMPLING, joint="curve")
    return plot


def _clock(seconds: float, step: float) -> str:
    return f"{seconds:.1f} s" if step < 1 else f"{seconds // 60:.0f}:{seconds % 60:02.0f}"
