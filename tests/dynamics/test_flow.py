"""The flow picture and back, and the methods that compute a flow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer.data.images import decode_rgb
from fer.data.synthetic import Person, Pose, render
from fer.dynamics import flow


@given(st.floats(0, 2 * np.pi), st.floats(0, flow.FULL))
@settings(max_examples=200, deadline=None)
def test_a_picture_says_direction_and_distance(angle: float, distance: float) -> None:
    field = np.full((4, 4, 2), distance * np.array([np.cos(angle), np.sin(angle)]), np.float32)
    found = flow.read(flow.draw(field))
    # Two degrees and 1/255 of the scale are what 8 bits can say.
    assert np.linalg.norm(found - field, axis=-1).max() < 0.03 * distance + 0.01 * flow.FULL


def test_long_distances_look_like_the_longest() -> None:
    field = np.full((2, 2, 2), [3 * flow.FULL, 0], np.float32)
    np.testing.assert_allclose(flow.read(flow.draw(field)), np.full((2, 2, 2), [flow.FULL, 0]), atol=1e-3)


def test_red_is_right_and_no_motion_is_black() -> None:
    red, green, blue = flow.draw(np.full((1, 1, 2), [flow.FULL, 0], np.float32))[0, 0]
    assert (red, green, blue) == (255, 0, 0)
    assert not flow.draw(np.zeros((2, 2, 2), np.float32)).any()


def test_the_encoded_picture_keeps_the_flow() -> None:
    y, x = np.mgrid[0:112, 0:112] / 112 - 0.5
    field = (0.15 * np.stack([-y, x], axis=-1)).astype(np.float32)
    found = flow.read(decode_rgb(flow.encode(flow.draw(field))))
    assert np.abs(found - field).mean() < 0.03 * flow.FULL


@pytest.mark.parametrize("shift", [(3, 0), (0, -4), (2, 2)])
def test_dense_inverse_search_sees_a_shift(shift: tuple[int, int]) -> None:
    face = render(Person(), pose=Pose(), size=224).image
    moved = np.roll(face, (shift[1], shift[0]), axis=(0, 1))
    found = flow.open_method("dis")(face, moved) * 224
    middle = found[60:180, 60:160]
    assert np.abs(np.median(middle.reshape(-1, 2), axis=0) - shift).max() < 0.5


def test_raft_gives_a_flow_of_the_pictures_size() -> None:
    from torchvision.models.optical_flow import raft_small

    face = render(Person(), size=128).image
    found = flow.Raft(raft_small(weights=None))(face, face)  # random weights: its shape and scale, not its quality
    assert found.shape == (128, 128, 2)
    assert np.isfinite(found).all()


def test_shrinking_keeps_shares_of_the_side() -> None:
    field = np.full((224, 224, 2), [0.05, -0.02], np.float32)
    np.testing.assert_allclose(flow.shrink(field), np.full((112, 112, 2), [0.05, -0.02]), atol=1e-6)
