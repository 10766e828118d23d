"""Augmentation transforms flow image and landmarks together, for any seed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer.data.images import decode_rgb
from fer.data.landmarks import MIRROR
from fer.data.synthetic.sequence import sample_sequence
from fer.dynamics import flow
from fer.dynamics.augment import FrameAugment, transform_flow, transform_landmarks, unaugmented
from fer.dynamics.frames import FramePair
from fer.dynamics.options import FrameAugmentOptions

NO_AUGMENTATION = {"hflip": 0, "rotate": 0, "zoom": 0, "shift": 0, "colour_noise": 0, "landmark_noise": 0}


def smooth_pair(seed: int) -> tuple[FramePair, np.ndarray]:
    """A frame whose landmarks move exactly with its flow, and that flow: linear about the image's centre."""
    rng = np.random.default_rng(seed)
    linear, constant = rng.uniform(-0.08, 0.08, (2, 2)), rng.uniform(-0.01, 0.01, 2)
    grid = np.stack(np.meshgrid(np.arange(flow.SIDE), np.arange(flow.SIDE)), axis=-1) / flow.SIDE - 0.5
    field = (grid @ linear.T + constant).astype(np.float32)
    baseline = rng.uniform(35, 77, (146, 2)).astype(np.float32)
    moved = ((baseline / flow.SIDE - 0.5) @ linear.T + constant) * flow.SIDE
    expression = (baseline + moved).astype(np.float32)
    return FramePair("p", "1", "1", flow.encode_jpeg(flow.to_image(field)), expression, baseline), field


def interpolate(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A field's values (N, 2) at points (N, 2), bilinear."""
    return cv2.remap(field, points[:, None, 0], points[:, None, 1], cv2.INTER_LINEAR)[:, 0]


@given(st.integers(0, 2**60))
@settings(max_examples=80, deadline=None)
def test_for_any_seed_the_flow_still_moves_the_landmarks(seed: int) -> None:
    pair, field = smooth_pair(seed % 1000)
    augment = FrameAugment(FrameAugmentOptions(rotate=60, zoom=0.3, shift=0.1))
    flipped = bool(seed % 2)
    matrix = augment._random_affine(np.random.default_rng(seed), flipped)
    moved = transform_flow(field, matrix)
    expression, baseline = (transform_landmarks(points, matrix, flipped) for points in (pair.expression, pair.baseline))
    inside = ((baseline > 2) & (baseline < flow.SIDE - 3)).all(axis=1)
    found = interpolate(moved, baseline) * flow.SIDE
    np.testing.assert_allclose(found[inside], (expression - baseline)[inside], atol=0.05)


@given(st.integers(0, 2**60))
@settings(max_examples=30, deadline=None)
def test_the_same_holds_for_the_networks_input(seed: int) -> None:
    pair, _ = smooth_pair(seed % 1000)
    sample = FrameAugment(FrameAugmentOptions(colour_noise=0, landmark_noise=0))(pair, seed)
    inside = ((sample.baseline > 4) & (sample.baseline < flow.SIDE - 5)).all(axis=1)
    found = interpolate(flow.from_image(sample.flow_image), sample.baseline) * flow.SIDE
    error = np.linalg.norm(found - (sample.expression - sample.baseline), axis=1)[inside]
    assert np.median(error) < 0.35  # pixels: the error of 8 bits and JPEG


@given(st.integers(0, 2**60))
@settings(max_examples=20, deadline=None)
def test_the_seed_determines_the_result(seed: int) -> None:
    pair, _ = smooth_pair(1)
    one, same, other = (FrameAugment(FrameAugmentOptions())(pair, number) for number in (seed, seed, seed + 1))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.expression, other.expression)


def test_without_augmentation_nothing_changes() -> None:
    pair, field = smooth_pair(2)
    sample, before = FrameAugment(FrameAugmentOptions(**NO_AUGMENTATION))(pair, 5), unaugmented(pair)
    np.testing.assert_allclose(sample.expression, before.expression, atol=1e-4)
    np.testing.assert_allclose(flow.from_image(sample.flow_image), field, atol=0.06 * flow.MAX_DISTANCE)


def test_a_flip_swaps_sides_and_the_sign_of_horizontal_motion() -> None:
    pair, _ = smooth_pair(3)
    sample = FrameAugment(FrameAugmentOptions(**{**NO_AUGMENTATION, "hflip": 1}))(pair, 5)
    before = flow.from_image(decode_rgb(pair.flow))
    np.testing.assert_allclose(
        flow.from_image(sample.flow_image), before[:, ::-1] * [-1, 1], atol=0.06 * flow.MAX_DISTANCE
    )
    flipped = np.column_stack([flow.SIDE - 1 - pair.baseline[:, 0], pair.baseline[:, 1]])
    np.testing.assert_allclose(sample.baseline, flipped[MIRROR], atol=1e-3)


def test_a_flipped_face_is_a_face() -> None:
    """The left eye stays the left eye: its landmarks are on the right of the image again."""
    moment = sample_sequence("smile", 1, np.random.default_rng(0))[0]
    pair = FramePair(
        "p",
        "1",
        "1",
        flow.encode_jpeg(flow.to_image(moment.flow() / 112)),
        moment.expression_landmarks,
        moment.baseline_landmarks,
    )
    sample = FrameAugment(FrameAugmentOptions(**{**NO_AUGMENTATION, "hflip": 1}))(pair, 0)
    difference = sample.baseline - sample.baseline.mean(axis=0) - (pair.baseline - pair.baseline.mean(axis=0))
    assert np.linalg.norm(difference, axis=1).max() < 0.2 * np.ptp(pair.baseline[:, 0])


@pytest.mark.parametrize("fraction", [0.01, 0.05])
def test_landmark_noise_is_a_fraction_of_the_faces_width(fraction: float) -> None:
    pair, _ = smooth_pair(4)
    sample = FrameAugment(FrameAugmentOptions(**{**NO_AUGMENTATION, "landmark_noise": fraction}))(pair, 1)
    sigma = (sample.baseline - pair.baseline).std() / np.ptp(pair.baseline[:, 0])
    assert sigma == pytest.approx(fraction, rel=0.2)
