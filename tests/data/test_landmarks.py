"""The 146 landmarks: published order, and mirroring on rendered and real faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fer.data.landmarks import GROUPS, INDICES, MIRROR, RIGID, from_groups
from fer.data.synthetic import LANDMARKS, NEUTRAL, Person, Pose
from fer.data.synthetic.sequence import _landmarks
from fer.data.video import video_frames

# As the blendshape graph of MediaPipe lists them.
PUBLISHED = """
0 1 4 5 6 7 8 10 13 14 17 21 33 37 39 40 46 52 53 54 55 58 61 63 65 66 67 70 78 80 81 82 84 87 88 91 93 95 103 105 107
109 127 132 133 136 144 145 146 148 149 150 152 153 154 155 157 158 159 160 161 162 163 168 172 173 176 178 181 185
191 195 197 234 246 249 251 263 267 269 270 276 282 283 284 285 288 291 293 295 296 297 300 308 310 311 312 314 317
318 321 323 324 332 334 336 338 356 361 362 365 373 374 375 377 378 379 380 381 382 384 385 386 387 388 389 390 397
398 400 402 405 409 415 454 466 468 469 470 471 472 473 474 475 476 477
"""


def test_indices_are_the_published_ones() -> None:
    assert INDICES.tolist() == [int(number) for number in PUBLISHED.split()]


def test_groups_are_those_of_the_renderer() -> None:
    drawn = {"midline" if name == "nose" else name: points for name, points in LANDMARKS.items()}
    assert {name: len(numbers) for name, numbers in GROUPS.items()} == drawn


def test_mirroring_twice_is_the_identity() -> None:
    assert sorted(MIRROR) == list(range(146))
    assert (MIRROR[MIRROR] == np.arange(146)).all()
    assert set(MIRROR[RIGID]) == set(RIGID)


def test_from_groups_puts_points_in_mesh_order() -> None:
    numbered = {name: np.array([(number, -number) for number in numbers]) for name, numbers in GROUPS.items()}
    assert from_groups(numbered).tolist() == [[number, -number] for number in INDICES]


def test_a_symmetric_face_is_its_own_mirror_image() -> None:
    face = _landmarks(Person(), NEUTRAL, Pose(), 112)
    mirrored = np.column_stack([111 - face[:, 0], face[:, 1]])[MIRROR]
    np.testing.assert_allclose(mirrored, face, atol=1e-3)


def test_landmarks_of_a_flipped_photo_are_mirrored(shared_data: Path) -> None:
    pytest.importorskip("mediapipe", reason="needs the extra `landmarks`")
    from fer.dynamics.landmarker import open_landmarker

    picture = next(video_frames(shared_data / "videos" / "single_face.mp4")).image
    bundle = shared_data / "models" / "face_landmarker_v2_with_blendshapes.task"
    with open_landmarker(str(bundle)) as landmarker:
        face, other = landmarker(picture), landmarker(picture[:, ::-1])
    assert face is not None
    assert other is not None
    mirrored = np.column_stack([picture.shape[1] - 1 - face[:, 0], face[:, 1]])[MIRROR]
    distance = np.linalg.norm(mirrored - other, axis=1) / np.ptp(face[:, 0])
    assert distance.max() < 0.03  # of the face's width; swapped points are farther apart
