"""From a video to frames: geometry, and real videos where MediaPipe is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer.data.images import decode_rgb
from fer.data.synthetic.sequence import sample_sequence
from fer.dynamics import flow
from fer.dynamics.extract import (
    ALIGNED_SIDE,
    LandmarkFrame,
    face_crop,
    similarity_transform,
    stillest_frame,
    transform_points,
)
from fer.dynamics.frames import read_frames
from jobs.__main__ import main


@given(st.floats(-3, 3), st.floats(0.3, 3), st.floats(-200, 200), st.floats(-200, 200), st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_alignment_undoes_rotation_scale_and_shift(angle: float, scale: float, x: float, y: float, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(0, 300, (13, 2))
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    moved = points @ np.array([[cosine, -sine], [sine, cosine]]).T + [x, y]
    np.testing.assert_allclose(transform_points(moved, similarity_transform(moved, points)), points, atol=1e-6)


def test_the_crop_contains_the_face() -> None:
    face = sample_sequence("smile", 1, np.random.default_rng(0), size=500)[0].baseline_landmarks * 3 + 40
    placed = transform_points(face, face_crop(face))
    assert placed.min() > 0
    assert placed.max() < ALIGNED_SIDE - 1
    centre = (placed.min(axis=0) + placed.max(axis=0)) / 2
    np.testing.assert_allclose(centre, (ALIGNED_SIDE - 1) / 2, atol=1e-6)


def test_the_baseline_is_the_stillest_frame_however_the_head_moves() -> None:
    moments = sample_sequence("smile", 12, np.random.default_rng(5), size=400)
    rest = [moments[0].baseline_landmarks] * 3  # at rest for three frames, then moving, while the head sways
    faces = (
        [moment.expression_landmarks for moment in moments[6:9]] + rest + [m.expression_landmarks for m in moments[9:]]
    )
    frames = [LandmarkFrame(number, number / 25, points + 7 * np.sin(number)) for number, points in enumerate(faces)]
    assert stillest_frame(frames).number == 4
    assert stillest_frame(frames[:1]).number == 0


@pytest.fixture(scope="module")
def extracted(landmarker_bundle: Path, talking_video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("extracted")
    options = ["--expression", "talk", "--frame-stride", "12", "--landmarker", str(landmarker_bundle)]
    assert main(["dynamics", "extract", str(talking_video), "--out", str(out), *options]) == 0
    return out


def test_a_real_video_becomes_frames(extracted: Path) -> None:
    frames, rejected = read_frames(str(extracted), require_labels=False)
    assert not rejected
    assert [pair.path for pair in frames[:2]] == ["talk/single_face_000", "talk/single_face_012"]
    assert len(frames) == 6
    moved = [np.linalg.norm(pair.expression - pair.baseline, axis=1).mean() for pair in frames]
    assert min(moved) < 0.1  # the baseline frame against itself
    assert max(moved) > 0.3
    distances = [np.linalg.norm(flow.from_image(decode_rgb(pair.flow)), axis=-1).mean() for pair in frames]
    assert np.argmin(distances) == np.argmin(moved)
    for pair in frames:  # the landmarks are within the flow image
        assert pair.expression.min() > 0
        assert pair.expression.max() < flow.SIDE


def test_the_baseline_can_be_chosen(
    landmarker_bundle: Path, talking_video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["dynamics", "extract", str(talking_video), "--out", str(tmp_path), "--frame-stride", "24"]
    arguments += ["--landmarker", str(landmarker_bundle), "--baseline"]
    assert main([*arguments, "24"]) == 0
    assert "baseline frame 24" in capsys.readouterr().out
    assert main([*arguments, "25"]) == 2
    assert "--baseline 25" in capsys.readouterr().err
