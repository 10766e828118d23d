"""Face tracks, and smoothing over time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.classifier.predict.tracks import Box, assign_tracks, iou, smooth

sizes = st.floats(1, 500)
places = st.floats(-500, 500)
boxes = st.tuples(places, places, sizes, sizes)


@given(boxes, boxes)
def test_iou_is_symmetric_and_between_0_and_1(first: Box, second: Box) -> None:
    assert iou(first, second) == pytest.approx(iou(second, first))
    assert 0 <= iou(first, second) <= 1
    assert iou(first, first) == pytest.approx(1)


def test_iou_of_half_shifted_boxes() -> None:
    assert iou((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert iou((0, 0, 10, 10), (10, 0, 10, 10)) == 0


@given(st.lists(st.lists(boxes, max_size=4), max_size=8))
def test_every_box_has_a_track_and_no_two_in_a_frame_share_one(frames: list[list[Box]]) -> None:
    tracks = assign_tracks(frames)
    assert [len(each) for each in tracks] == [len(each) for each in frames]
    assert all(len(set(each)) == len(each) for each in tracks)
    used = {track for each in tracks for track in each}
    assert used == set(range(len(used)))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.booleans()), min_size=1, max_size=40))
def test_two_drifting_faces_keep_their_tracks_in_any_order(steps: list[tuple[int, int, bool]]) -> None:
    left, right = np.array([0.0, 0.0]), np.array([500.0, 0.0])
    frames: list[list[Box]] = []
    for dx, dy, swapped in [(0, 0, False), *steps]:
        left, right = left + np.array([dx, dy]), right + np.array([dy, dx])
        pair: list[Box] = [(*left, 60.0, 60.0), (*right, 60.0, 60.0)]
        frames.append(pair[::-1] if swapped else pair)
    expected = [[0, 1], *([1, 0] if swapped else [0, 1] for _, _, swapped in steps)]
    assert assign_tracks(frames) == expected


def test_the_highest_iou_wins() -> None:
    near, far = (2.0, 0.0, 20.0, 20.0), (12.0, 0.0, 20.0, 20.0)
    assert assign_tracks([[(0, 0, 20, 20)], [far, near]]) == [[0], [1, 0]]


def test_a_track_survives_a_short_gap_and_not_a_long_one() -> None:
    face: Box = (0, 0, 20, 20)
    assert assign_tracks([[face], [], [], [face]], max_gap=2) == [[0], [], [], [0]]
    assert assign_tracks([[face], [], [], [], [face]], max_gap=2) == [[0], [], [], [], [1]]


@st.composite
def series(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Distributions over three labels, and their times."""
    length = draw(st.integers(1, 30))
    seconds = np.cumsum([draw(st.floats(0.001, 2)) for _ in range(length)])
    raw = np.array([[draw(st.floats(0.01, 1)) for _ in range(3)] for _ in range(length)])
    return raw / raw.sum(axis=1, keepdims=True), seconds


@given(series(), st.floats(0, 5), st.sampled_from(["centred", "exponential"]))
def test_smoothed_distributions_are_distributions_in_the_range_of_the_values(data, window, kind) -> None:
    values, seconds = data
    smoothed = smooth(values, seconds, window, kind)
    assert smoothed.shape == values.shape
    np.testing.assert_allclose(smoothed.sum(axis=1), 1, atol=1e-9)
    assert (smoothed >= values.min(axis=0) - 1e-9).all()
    assert (smoothed <= values.max(axis=0) + 1e-9).all()


@given(series(), st.floats(0.01, 5))
def test_centred_smoothing_is_the_mean_over_the_window(data, window) -> None:
    values, seconds = data
    expected = [values[np.abs(seconds - now) <= window / 2 + 1e-9].mean(axis=0) for now in seconds]
    np.testing.assert_allclose(smooth(values, seconds, window), expected, atol=1e-9)


def test_exponential_smoothing_is_causal_with_the_window_as_time_constant() -> None:
    values = np.array([[0.0], [1.0], [1.0]])
    smoothed = smooth(values, np.array([0.0, 2.0, 4.0]), 2.0, "exponential")
    np.testing.assert_allclose(smoothed[:, 0], [0, 1 - np.exp(-1), 1 - np.exp(-2)])


@pytest.mark.parametrize("kind", ["centred", "exponential"])
def test_a_window_of_zero_changes_nothing(kind) -> None:
    values = np.random.default_rng(0).random((5, 3))
    np.testing.assert_array_equal(smooth(values, np.arange(5.0), 0, kind), values)
