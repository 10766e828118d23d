"""Annotated videos: their frames, and the cards of tracks. Times and sound are tested with `fer.data.video_writer`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.classifier.predict.drawing.style import label_colours
from fer.classifier.predict.drawing.video import MAX_CARDS, assign_slots, draw_video
from fer.classifier.predict.rows import NO_FACE, PredictionRow
from fer.data.video import video_frames

Make = Callable[..., PredictionRow]


def test_each_frame_has_its_own_boxes(make_row: Make, video: Path, tmp_path: Path) -> None:
    rows = [make_row(path=str(video), frame=n, seconds=n / 12, face=0, box=(4.0 * n, 8, 16, 16)) for n in range(12)]
    draw_video(rows, video, tmp_path / "drawn.mp4")
    frames = list(video_frames(tmp_path / "drawn.mp4"))
    assert [frame.seconds for frame in frames] == pytest.approx([n / 12 for n in range(12)], abs=0.002)
    happiness = np.array([240, 228, 66])
    for number, frame in enumerate(frames):  # enlarged ten times
        sides = (np.abs(frame.image[150:180, :640].astype(int) - happiness).max(axis=2) < 60).mean(axis=0)
        assert np.flatnonzero(sides > 0.9).min() == pytest.approx(40 * number, abs=4)


def test_a_video_without_a_face_is_drawn_without_cards(video: Path, tmp_path: Path) -> None:
    rows = [PredictionRow(path=str(video), frame=n, seconds=n / 12, error=NO_FACE) for n in range(12)]
    draw_video(rows, video, tmp_path / "drawn.mp4")
    frames = list(video_frames(tmp_path / "drawn.mp4"))
    assert len(frames) == 12
    assert frames[0].image.shape == (480, 640, 3)


def test_only_predicted_frames_are_drawn(make_row: Make, video: Path, tmp_path: Path) -> None:
    """With a stride, and of a video that is damaged behind them."""
    rows = [make_row(path=str(video), frame=n, seconds=n / 12) for n in (0, 5)]
    rows.append(PredictionRow(path=str(video), error="frame 10 can't be decoded: the file is damaged"))
    draw_video(rows, video, tmp_path / "drawn.mp4", stride=5)
    assert [frame.seconds for frame in video_frames(tmp_path / "drawn.mp4")] == pytest.approx([0, 5 / 12], abs=0.002)


def track_rows(tracks: list[tuple[int, int]]) -> list[PredictionRow]:
    """Rows of tracks from one frame to another."""
    last = max(end for _, end in tracks)
    return [
        PredictionRow(path="a.mp4", frame=frame, seconds=float(frame), face=face, label="x")
        for frame in range(last + 1)
        for face, (first, end) in enumerate(tracks)
        if first <= frame <= end
    ]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(5, 30)), min_size=1, max_size=12))
def test_two_faces_never_share_a_card_at_a_time(spans: list[tuple[int, int]]) -> None:
    tracks = [(first, first + length) for first, length in spans]
    slots = assign_slots(track_rows(tracks))
    assert all(0 <= slot < MAX_CARDS for slot in slots.values())
    for slot in set(slots.values()):
        shown = sorted(tracks[face] for face, own in slots.items() if own == slot)  # type: ignore[index]
        if len(slots) == len(tracks) <= MAX_CARDS:
            assert all(one[1] < two[0] for one, two in pairwise(shown))


def test_a_card_is_used_again_and_brief_tracks_have_none() -> None:
    slots = assign_slots(track_rows([(0, 50), (0, 20), (30, 50), (25, 26)]))
    assert slots == {0: 0, 1: 1, 2: 1}


def test_colours_survive_the_encoder(make_row: Make, video: Path, tmp_path: Path) -> None:
    rows = [make_row(path=str(video), frame=n, seconds=n / 12, label="anger") for n in range(12)]
    draw_video(rows, video, tmp_path / "drawn.mp4")
    image = next(video_frames(tmp_path / "drawn.mp4")).image
    for colour in ("happiness", "sadness"):
        expected = np.array([int(label_colours([colour])[colour][n : n + 2], 16) for n in (1, 3, 5)])
        assert (np.abs(image.astype(int) - expected).max(axis=2) < 40).sum() > 200
