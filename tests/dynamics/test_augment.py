"""Augmentation moves picture and landmarks together, whatever it draws."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer.data.images import decode_rgb
from fer.data.landmarks import MIRROR
from fer.data.synthetic.sequence import sequence
from fer.dynamics import flow
from fer.dynamics.augment import Augment, move_flow, move_landmarks, plain
from fer.dynamics.frames import FramePair
from fer.dynamics.options import AugmentOptions

STILL = {"hflip": 0, "rotate": 0, "zoom": 0, "shift": 0, "colour_noise": 0, "landmark_noise": 0}


def smooth_pair(seed: int) -> tuple[FramePair, np.ndarray]:
    """A frame whose landmarks move exactly as its flow says, and that flow: a swirl about the picture's middle."""
    rng = np.random.default_rng(seed)
    linear, constant = rng.uniform(-0.08, 0.08, (2, 2)), rng.uniform(-0.01, 0.01, 2)
    grid = np.stack(np.meshgrid(np.arange(flow.SIDE), np.arange(flow.SIDE)), axis=-1) / flow.SIDE - 0.5
    field = (grid @ linear.T + constant).astype(np.float32)
    baseline = rng.uniform(35, 77, (146, 2)).astype(np.float32)
    moved = ((baseline / flow.SIDE - 0.5) @ linear.T + constant) * flow.SIDE
    expression = (baseline + moved).astype(np.float32)
    return FramePair("p", "1", "1", flow.encode(flow.draw(field)), expression, baseline), field


def look_up(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A field's values (N, 2) at points (N, 2), between pixels too."""
    return cv2.remap(field, points[:, None, 0], points[:, None, 1], cv2.INTER_LINEAR)[:, 0]


@given(st.integers(0, 2**60))
@settings(max_examples=80, deadline=None)
def test_after_any_draw_the_flow_still_moves_the_landmarks(key: int) -> None:
    pair, field = smooth_pair(key % 1000)
    augment = Augment(AugmentOptions(rotate=60, zoom=0.3, shift=0.1))
    mirrored = bool(key % 2)
    matrix = augment._matrix(np.random.default_rng(key), mirrored)
    moved = move_flow(field, matrix)
    expression, baseline = (move_landmarks(points, matrix, mirrored) for points in (pair.expression, pair.baseline))
    inside = ((baseline > 2) & (baseline < flow.SIDE - 3)).all(axis=1)
    found = look_up(moved, baseline) * flow.SIDE
    np.testing.assert_allclose(found[inside], (expression - baseline)[inside], atol=0.05)


@given(st.integers(0, 2**60))
@settings(max_examples=30, deadline=None)
def test_the_same_holds_for_the_picture_that_the_network_sees(key: int) -> None:
    pair, _ = smooth_pair(key % 1000)
    sample = Augment(AugmentOptions(colour_noise=0, landmark_noise=0))(pair, key)
    inside = ((sample.baseline > 4) & (sample.baseline < flow.SIDE - 5)).all(axis=1)
    found = look_up(flow.read(sample.picture), sample.baseline) * flow.SIDE
    error = np.linalg.norm(found - (sample.expression - sample.baseline), axis=1)[inside]
    assert np.median(error) < 0.35  # pixels: what 8 bits and JPEG take


@given(st.integers(0, 2**60))
@settings(max_examples=20, deadline=None)
def test_the_key_decides_everything(key: int) -> None:
    pair, _ = smooth_pair(1)
    one, same, other = (Augment(AugmentOptions())(pair, number) for number in (key, key, key + 1))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.expression, other.expression)


def test_nothing_asked_nothing_changed() -> None:
    pair, field = smooth_pair(2)
    sample, before = Augment(AugmentOptions(**STILL))(pair, 5), plain(pair)
    np.testing.assert_allclose(sample.expression, before.expression, atol=1e-4)
    np.testing.assert_allclose(flow.read(sample.picture), field, atol=0.06 * flow.FULL)


def test_a_flip_swaps_sides_and_the_sign_of_horizontal_motion() -> None:
    pair, _ = smooth_pair(3)
    sample = Augment(AugmentOptions(**{**STILL, "hflip": 1}))(pair, 5)
    before = flow.read(decode_rgb(pair.flow))
    np.testing.assert_allclose(flow.read(sample.picture), before[:, ::-1] * [-1, 1], atol=0.06 * flow.FULL)
    flipped = np.column_stack([flow.SIDE - 1 - pair.baseline[:, 0], pair.baseline[:, 1]])
    np.testing.assert_allclose(sample.baseline, flipped[MIRROR], atol=1e-3)


def test_a_drawn_face_mirrors_into_a_face() -> None:
    """The left eye stays the left eye: its landmarks are on the picture's right again."""
    moment = sequence("smile", 1, np.random.default_rng(0))[0]
    pair = FramePair(
        "p",
        "1",
        "1",
        flow.encode(flow.draw(moment.flow() / 112)),
        moment.expression_landmarks,
        moment.baseline_landmarks,
    )
    sample = Augment(AugmentOptions(**{**STILL, "hflip": 1}))(pair, 0)
    difference = sample.baseline - sample.baseline.mean(axis=0) - (pair.baseline - pair.baseline.mean(axis=0))
    assert np.linalg.norm(difference, axis=1).max() < 0.2 * np.ptp(pair.baseline[:, 0])


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_landmark_noise_is_a_share_of_the_faces_width(share: float) -> None:
    pair, _ = smooth_pair(4)
    sample = Augment(AugmentOptions(**{**STILL, "landmark_noise": share}))(pair, 1)
    spread = (sample.baseline - pair.baseline).std() / np.ptp(pair.baseline[:, 0])
    assert spread == pytest.approx(share, rel=0.2)
