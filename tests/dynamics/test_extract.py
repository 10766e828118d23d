"""From video to frames and to a curve: geometry on its own, and real videos where MediaPipe is installed."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer.data.images import decode_rgb
from fer.data.synthetic.sequence import sequence
from fer.dynamics import flow
from fer.dynamics.extract import WORKING_SIDE, Seen, move, similarity, square, stillest
from fer.dynamics.frames import read_frames
from jobs.__main__ import main


@given(st.floats(-3, 3), st.floats(0.3, 3), st.floats(-200, 200), st.floats(-200, 200), st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_alignment_undoes_turn_scale_and_shift(angle: float, scale: float, x: float, y: float, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(0, 300, (13, 2))
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    moved = points @ np.array([[cosine, -sine], [sine, cosine]]).T + [x, y]
    np.testing.assert_allclose(move(moved, similarity(moved, points)), points, atol=1e-6)


def test_the_square_holds_the_face() -> None:
    face = sequence("smile", 1, np.random.default_rng(0), size=500)[0].baseline_landmarks * 3 + 40
    placed = move(face, square(face))
    assert placed.min() > 0
    assert placed.max() < WORKING_SIDE - 1
    middle = (placed.min(axis=0) + placed.max(axis=0)) / 2
    np.testing.assert_allclose(middle, (WORKING_SIDE - 1) / 2, atol=1e-6)


def test_the_frame_at_rest_is_the_stillest_one_however_the_head_moves() -> None:
    moments = sequence("smile", 12, np.random.default_rng(5), size=400)
    still = [moments[0].baseline_landmarks] * 3  # the face rests for three frames, then moves, while the head sways
    faces = (
        [moment.expression_landmarks for moment in moments[6:9]] + still + [m.expression_landmarks for m in moments[9:]]
    )
    seen = [Seen(number, number / 25, points + 7 * np.sin(number)) for number, points in enumerate(faces)]
    assert stillest(seen).number == 4
    assert stillest(seen[:1]).number == 0


@pytest.fixture(scope="module")
def extracted(landmarker_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("extracted")
    video = landmarker_bundle.parents[1] / "videos" / "single_face.mp4"
    arguments = ["--out", str(out), "--expression", "talk", "--every", "12", "--landmarker", str(landmarker_bundle)]
    assert main(["dynamics", "extract", str(video), *arguments]) == 0
    return out


def test_a_real_video_becomes_frames(extracted: Path) -> None:
    frames, set_aside = read_frames(str(extracted), labelled=False)
    assert not set_aside
    assert [pair.path for pair in frames[:2]] == ["talk/single_face_000", "talk/single_face_012"]
    assert len(frames) == 6
    moved = [np.linalg.norm(pair.expression - pair.baseline, axis=1).mean() for pair in frames]
    assert min(moved) < 0.1  # the frame at rest against itself
    assert max(moved) > 0.3
    seen = [np.linalg.norm(flow.read(decode_rgb(pair.flow)), axis=-1).mean() for pair in frames]
    assert np.argmin(seen) == np.argmin(moved)
    for pair in frames:  # the landmarks lie in the flow picture
        assert pair.expression.min() > 0
        assert pair.expression.max() < flow.SIDE


def test_a_baseline_can_be_chosen(landmarker_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = landmarker_bundle.parents[1] / "videos" / "single_face.mp4"
    arguments = ["dynamics", "extract", str(video), "--out", str(tmp_path), "--every", "24", "--landmarker"]
    assert main([*arguments, str(landmarker_bundle), "--baseline", "24"]) == 0
    assert "baseline frame 24" in capsys.readouterr().out
    assert main([*arguments, str(landmarker_bundle), "--baseline", "25"]) == 2
    assert "--baseline 25" in capsys.readouterr().err


def test_a_video_becomes_a_curve(landmarker_bundle: Path, scorer_folder: Path, tmp_path: Path) -> None:
    video = landmarker_bundle.parents[1] / "videos" / "single_face.mp4"
    arguments = ["--out", str(tmp_path), "--every", "12", "--landmarker", str(landmarker_bundle)]
    assert main(["dynamics", "predict", str(scorer_folder), str(video), *arguments]) == 0
    rows = list(csv.DictReader((tmp_path / "single_face.csv").open()))
    assert [int(row["frame"]) for row in rows] == [0, 12, 24, 36, 48, 60]
    assert all(0 <= float(row["dynamics"]) <= 5 and 0 <= float(row["synkinesis"]) <= 3 for row in rows)
    assert {row["note"] for row in rows} == {"research score, not a diagnosis"}
    assert (tmp_path / "single_face.png").read_bytes().startswith(b"\x89PNG")


def test_a_video_without_a_face_is_a_clear_line_and_exit_code_2(
    landmarker_bundle: Path, scorer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = landmarker_bundle.parents[1] / "videos" / "no_face.mp4"
    options = ["--out", str(tmp_path), "--every", "20", "--landmarker", str(landmarker_bundle)]
    for command in (["extract"], ["predict", str(scorer_folder)]):
        assert main(["dynamics", *command, str(video), *options]) == 2
        assert "no_face.mp4: no face was found in any of 5 frames" in capsys.readouterr().err


def test_frames_are_scored_from_their_folder(scorer_folder: Path, sequences: Path, tmp_path: Path) -> None:
    assert main(["dynamics", "predict", str(scorer_folder), str(sequences / "smile"), "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "smile.csv").open()))
    assert len(rows) == 40
    assert rows[0]["path"] == "01_001"
    assert rows[0]["true_dynamics"] in "012345"
    assert rows[0]["dynamics_level"] in "012345"
