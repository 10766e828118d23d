"""Rendered sequences: the flow matches landmarks and images, the scores match the strengths."""

from __future__ import annotations

import numpy as np
import pytest

from fer.data.landmarks import GROUPS, INDICES, RIGID
from fer.data.synthetic.sequence import MOVEMENTS, sample_sequence
from fer.dynamics.flow import DISFlow


def at(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of a flow field at the nearest pixels."""
    x, y = np.round(points).astype(int).T
    return field[y, x]


@pytest.mark.parametrize("movement", MOVEMENTS)
def test_the_flow_moves_the_landmarks(movement: str) -> None:
    for frame in sample_sequence(movement, 4, np.random.default_rng(3)):
        moved = frame.expression_landmarks - frame.baseline_landmarks
        error = np.linalg.norm(at(frame.flow(), frame.baseline_landmarks) - moved, axis=1)
        assert np.median(error) < 0.3  # pixels; parting lips are two motions in one pixel
        assert np.abs(moved[RIGID]).max() < np.abs(moved).max()


def test_dense_inverse_search_finds_the_true_flow() -> None:
    """At the eye: an opening mouth shows teeth that the frame before does not have."""
    eye = [place for place, number in enumerate(INDICES) if number in GROUPS["left_eye"]]
    search, found, true = DISFlow(), [], []
    for seed in range(4):
        frame = sample_sequence("eye_close", 3, np.random.default_rng(seed), size=224)[-1]
        before, after = (face.image for face in frame.render())
        found.append(at(search(before, after) * 224, frame.baseline_landmarks[eye]))
        true.append(at(frame.flow(), frame.baseline_landmarks[eye]))
    assert np.corrcoef(np.ravel(found), np.ravel(true))[0, 1] > 0.8


def test_scores_follow_the_movement() -> None:
    for seed in range(5):
        frames = sample_sequence("smile", 12, np.random.default_rng(seed))
        assert all(0 <= frame.dynamics <= 5 and 0 <= frame.synkinesis <= 3 for frame in frames)
        assert [frame.dynamics for frame in frames] == sorted(frame.dynamics for frame in frames)
        assert frames[-1].dynamics >= 2
        first, last = (frame.expression_landmarks - frame.baseline_landmarks for frame in (frames[0], frames[-1]))
        assert np.linalg.norm(last) > np.linalg.norm(first)


def test_people_differ_in_both_scores() -> None:
    ends = [sample_sequence("smile", 2, np.random.default_rng(seed))[-1] for seed in range(60)]
    assert {frame.synkinesis for frame in ends} == {0, 1, 2, 3}
    dynamics, synkinesis = np.array([(frame.dynamics, frame.synkinesis) for frame in ends]).T
    assert abs(np.corrcoef(dynamics, synkinesis)[0, 1]) < 0.4


def test_the_same_seed_gives_the_same_data() -> None:
    one, same = (sample_sequence("smile", 2, np.random.default_rng(4))[1] for _ in range(2))
    np.testing.assert_array_equal(one.expression_landmarks, same.expression_landmarks)
    np.testing.assert_array_equal(one.flow(), same.flow())
