"""The strip under a video."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import ImageColor

from fer.classifier.predict.drawing.style import TRACK, label_colours
from fer.classifier.predict.drawing.timeline import Timeline, main_track
from fer.classifier.predict.rows import NO_FACE, PredictionRow

Make = Callable[..., PredictionRow]
LABELS = ("anger", "happiness", "sadness")


def shares(timeline: Timeline, seconds: float) -> dict[str, float]:
    """The share of each colour in the column of a time."""
    plot = np.asarray(timeline.strip)[timeline.top : timeline.bottom]
    column = plot[:, timeline._x(seconds)].astype(int)
    colours = {**label_colours(LABELS), "nothing": TRACK}
    near = {name: np.abs(column - ImageColor.getrgb(c)).max(axis=1) < 12 for name, c in colours.items()}
    return {name: float(mask.mean()) for name, mask in near.items() if mask.any()}


def test_the_areas_are_the_distribution_at_each_time(make_row: Make) -> None:
    early, late = {"anger": 0.2, "happiness": 0.6, "sadness": 0.2}, {"anger": 0.5, "happiness": 0.0, "sadness": 0.5}
    rows = [make_row(face=0, seconds=t / 10, scores=early if t < 50 else late) for t in range(100)]
    timeline = Timeline(1000, 20, rows, LABELS, duration=9.9)
    assert shares(timeline, 2.0) == pytest.approx(early, abs=0.04)
    assert shares(timeline, 8.0) == pytest.approx({"anger": 0.5, "sadness": 0.5}, abs=0.04)


def test_nothing_is_drawn_where_the_face_is_not_in_the_picture(make_row: Make) -> None:
    rows = [make_row(face=0, seconds=t / 10) for t in range(100) if not 30 <= t < 60]
    timeline = Timeline(1000, 20, rows, LABELS, duration=9.9)
    assert shares(timeline, 4.5) == {"nothing": 1.0}
    assert "nothing" not in shares(timeline, 2.5)
    assert "nothing" not in shares(timeline, 6.5)


@pytest.mark.parametrize("frames", [1, 2, 50_000])
def test_videos_of_any_length(make_row: Make, frames: int) -> None:
    rows = [make_row(face=0, seconds=t / 25) for t in range(frames)]
    timeline = Timeline(640, 15, rows, LABELS, duration=rows[-1].seconds or 0.0)
    assert shares(timeline, rows[-1].seconds or 0.0) == pytest.approx({"happiness": 0.75, "sadness": 0.25}, abs=0.05)


def test_lines_of_valence_and_arousal(make_row: Make) -> None:
    values = {"label": None, "scores": None, "confidence": None}
    rows = [make_row(**values, face=0, seconds=t / 10, valence=0.8, arousal=-0.8) for t in range(20)]
    timeline = Timeline(600, 20, rows, (), duration=1.9)
    plot = np.asarray(timeline.strip)[timeline.top : timeline.bottom, timeline._x(1.0)].astype(int)
    high, low = (np.abs(plot - ImageColor.getrgb(colour)).max(axis=1).argmin() for colour in ("#e69f00", "#56b4e9"))
    assert (high / len(plot), low / len(plot)) == pytest.approx((0.1, 0.9), abs=0.05)


def test_the_cursor_moves_with_the_time(make_row: Make) -> None:
    timeline = Timeline(640, 15, [make_row(face=0, seconds=t / 10) for t in range(21)], LABELS, duration=2.0)
    before = np.asarray(timeline.strip).copy()
    places = []
    for seconds in (0.0, 1.0, 2.0):
        changed = (np.asarray(timeline.draw(seconds)) != before).any(axis=(0, 2))
        places.append(np.flatnonzero(changed).mean())
    np.testing.assert_array_equal(np.asarray(timeline.strip), before)
    assert places == pytest.approx([15, 319.5, 624], abs=1.5)


def test_the_main_track_takes_up_most_of_the_video(make_row: Make) -> None:
    small = [make_row(face=0, frame=n, box=(0, 0, 10, 10)) for n in range(10)]
    large = [make_row(face=1, frame=n, box=(50, 0, 40, 40)) for n in range(8)]
    brief = [make_row(face=2, frame=3, box=(0, 50, 60, 60))]
    rows = [*small, *large, *brief, PredictionRow(path="a.mp4", frame=11, error=NO_FACE)]
    assert main_track(rows) == large
    assert main_track(rows[-1:]) == []
