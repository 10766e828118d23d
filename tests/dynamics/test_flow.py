"""Encoding of a flow field as an image, and the flow estimators."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer.data.images import decode_rgb
from fer.data.synthetic import Person, Pose, render
from fer.dynamics import flow


@given(st.floats(0, 2 * np.pi), st.floats(0, flow.MAX_DISTANCE))
@settings(max_examples=200, deadline=None)
def test_an_image_encodes_direction_and_distance(angle: float, distance: float) -> None:
    field = np.full((4, 4, 2), distance * np.array([np.cos(angle), np.sin(angle)]), np.float32)
    found = flow.from_image(flow.to_image(field))
    # 8 bits resolve two degrees and 1/255 of the scale.
    assert np.linalg.norm(found - field, axis=-1).max() < 0.03 * distance + 0.01 * flow.MAX_DISTANCE


def test_long_distances_are_clipped() -> None:
    field = np.full((2, 2, 2), [3 * flow.MAX_DISTANCE, 0], np.float32)
    np.testing.assert_allclose(
        flow.from_image(flow.to_image(field)), np.full((2, 2, 2), [flow.MAX_DISTANCE, 0]), atol=1e-3
    )


def test_red_is_right_and_no_motion_is_black() -> None:
    red, green, blue = flow.to_image(np.full((1, 1, 2), [flow.MAX_DISTANCE, 0], np.float32))[0, 0]
    assert (red, green, blue) == (255, 0, 0)
    assert not flow.to_image(np.zeros((2, 2, 2), np.float32)).any()


def test_jpeg_keeps_the_flow() -> None:
    y, x = np.mgrid[0:112, 0:112] / 112 - 0.5
    field = (0.15 * np.stack([-y, x], axis=-1)).astype(np.float32)
    found = flow.from_image(decode_rgb(flow.encode_jpeg(flow.to_image(field))))
    assert np.abs(found - field).mean() < 0.03 * flow.MAX_DISTANCE


@pytest.mark.parametrize("shift", [(3, 0), (0, -4), (2, 2)])
def test_dense_inverse_search_finds_a_shift(shift: tuple[int, int]) -> None:
    face = render(Person(), pose=Pose(), size=224).image
    moved = np.roll(face, (shift[1], shift[0]), axis=(0, 1))
    found = flow.build_flow_estimator("dis")(face, moved) * 224
    middle = found[60:180, 60:160]
    assert np.abs(np.median(middle.reshape(-1, 2), axis=0) - shift).max() < 0.5


def test_raft_gives_a_flow_of_the_images_size() -> None:
    from torchvision.models.optical_flow import raft_small

    face = render(Person(), size=128).image
    found = flow.RAFTFlow(raft_small(weights=None))(face, face)  # random weights: shape and scale only
    assert found.shape == (128, 128, 2)
    assert np.isfinite(found).all()


def test_resizing_keeps_fractions_of_the_side() -> None:
    field = np.full((224, 224, 2), [0.05, -0.02], np.float32)
    np.testing.assert_allclose(flow.resize(field), np.full((112, 112, 2), [0.05, -0.02]), atol=1e-6)
