"""Drawn sequences: the flow is that of the landmarks and of the pictures, the scores those of the strengths."""

from __future__ import annotations

import numpy as np
import pytest

from fer.data.landmarks import GROUPS, INDICES, RIGID
from fer.data.synthetic.sequence import MOVEMENTS, sequence
from fer.dynamics.flow import DISFlow


def at(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A field's values at the nearest pixels."""
    x, y = np.round(points).astype(int).T
    return field[y, x]


@pytest.mark.parametrize("movement", MOVEMENTS)
def test_the_flow_moves_the_landmarks(movement: str) -> None:
    for moment in sequence(movement, 4, np.random.default_rng(3)):
        moved = moment.expression_landmarks - moment.baseline_landmarks
        error = np.linalg.norm(at(moment.flow(), moment.baseline_landmarks) - moved, axis=1)
        assert np.median(error) < 0.3  # pixels; lips that part are two motions in one pixel
        assert np.abs(moved[RIGID]).max() < np.abs(moved).max()


def test_dense_inverse_search_finds_the_true_flow_of_the_pictures() -> None:
    """At the eye; a mouth that opens shows teeth which no search can find in the picture before."""
    eye = [place for place, number in enumerate(INDICES) if number in GROUPS["left_eye"]]
    search, found, true = DISFlow(), [], []
    for seed in range(4):
        moment = sequence("eye_close", 3, np.random.default_rng(seed), size=224)[-1]
        before, after = (face.image for face in moment.pictures())
        found.append(at(search(before, after) * 224, moment.baseline_landmarks[eye]))
        true.append(at(moment.flow(), moment.baseline_landmarks[eye]))
    assert np.corrcoef(np.ravel(found), np.ravel(true))[0, 1] > 0.8


def test_scores_follow_the_movement() -> None:
    for seed in range(5):
        moments = sequence("smile", 12, np.random.default_rng(seed))
        assert all(0 <= moment.dynamics <= 5 and 0 <= moment.synkinesis <= 3 for moment in moments)
        assert [moment.dynamics for moment in moments] == sorted(moment.dynamics for moment in moments)
        assert moments[-1].dynamics >= 2
        first, last = (moment.expression_landmarks - moment.baseline_landmarks for moment in (moments[0], moments[-1]))
        assert np.linalg.norm(last) > np.linalg.norm(first)


def test_people_differ_in_both_scores() -> None:
    ends = [sequence("smile", 2, np.random.default_rng(seed))[-1] for seed in range(60)]
    assert {moment.synkinesis for moment in ends} == {0, 1, 2, 3}
    dynamics, synkinesis = np.array([(moment.dynamics, moment.synkinesis) for moment in ends]).T
    assert abs(np.corrcoef(dynamics, synkinesis)[0, 1]) < 0.4


def test_the_seed_decides_everything() -> None:
    one, same = (sequence("smile", 2, np.random.default_rng(4))[1] for _ in range(2))
    np.testing.assert_array_equal(one.expression_landmarks, same.expression_landmarks)
    np.testing.assert_array_equal(one.flow(), same.flow())
