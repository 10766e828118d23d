"""`fer dynamics predict`: tables and plots of scores, of folders of frames and of real videos."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from jobs.__main__ import main


def test_a_video_is_scored_over_time(
    landmarker_bundle: Path, talking_video: Path, dynamics_model: Path, tmp_path: Path
) -> None:
    options = ["--out", str(tmp_path), "--frame-stride", "12", "--landmarker", str(landmarker_bundle)]
    assert main(["dynamics", "predict", "--model", str(dynamics_model), str(talking_video), *options]) == 0
    rows = list(csv.DictReader((tmp_path / "single_face.csv").open()))
    assert [int(row["frame"]) for row in rows] == [0, 12, 24, 36, 48, 60]
    assert all(0 <= float(row["dynamics"]) <= 5 and 0 <= float(row["synkinesis"]) <= 3 for row in rows)
    assert {row["note"] for row in rows} == {"research score, not a diagnosis"}
    assert (tmp_path / "single_face.png").read_bytes().startswith(b"\x89PNG")


def test_a_video_without_a_face_is_a_user_error(
    landmarker_bundle: Path,
    talking_video: Path,
    dynamics_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    video = talking_video.with_name("no_face.mp4")
    options = ["--out", str(tmp_path), "--frame-stride", "20", "--landmarker", str(landmarker_bundle)]
    for command in (["extract"], ["predict", "--model", str(dynamics_model)]):
        assert main(["dynamics", *command, str(video), *options]) == 2
        assert "no_face.mp4: no face was found in any of 5 frames" in capsys.readouterr().err


def test_a_folder_of_frames_is_scored(dynamics_model: Path, sequences: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "smile.01"), "zip", sequences / "smile")
    assert main(["dynamics", "predict", "--model", str(dynamics_model), archive, "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "smile.01.csv").open()))
    assert len(rows) == 40
    assert rows[0]["path"] == "01_001"
    assert rows[0]["true_dynamics"] in "012345"
    assert rows[0]["dynamics_level"] in "012345"
