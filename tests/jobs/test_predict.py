"""`fer predict` from the command line."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fer.data.images import encode_png
from jobs.__main__ import main


@pytest.fixture
def workspace(make_classifier: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a model and three images, one of them broken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("FER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FER_PREDICT_DETECTOR", "none")
    make_classifier(tmp_path / "model", "basic")
    (tmp_path / "images").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        (tmp_path / f"images/{i}.png").write_bytes(encode_png(pixels))
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    return tmp_path


def test_rows_go_to_stdout_and_the_summary_to_stderr(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--model", "model", "images", "--device", "cpu"]) == 0
    streams = capsys.readouterr()
    rows = [json.loads(line) for line in streams.out.splitlines()]
    assert [row["path"] for row in rows] == ["images/0.png", "images/1.png", "images/broken.png"]
    assert [bool(row["error"]) for row in rows] == [False, False, True]
    assert "2 faces in 2 of 3 files: " in streams.err


def test_a_csv_file_and_an_ensemble(workspace: Path) -> None:
    files = ["images/*.png", "--out", "predictions.csv"]
    assert main(["predict", "--model", "model", *files, "--ensemble", "model", "model"]) == 0
    rows = list(csv.DictReader((workspace / "predictions.csv").open()))
    assert len(rows) == 3
    assert rows[0]["label"]


def test_pictures_are_drawn_beside_the_rows(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", "--model", "model", "images", "--out", "rows.csv", "--draw", "drawn", "--explain"]
    assert main([*arguments, "--detector", "none"]) == 0
    assert sorted(file.name for file in (workspace / "drawn").iterdir()) == ["0.jpg", "1.jpg", "contact-sheet-1.jpg"]
    assert capsys.readouterr().err.strip().endswith("; written to rows.csv and drawn")


def test_without_yunet_there_is_a_hint_and_with_it_none(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, shared_data: Path
) -> None:
    def hints(*arguments: str) -> int:
        assert main(["predict", "--model", "model", "images", *arguments]) == 0
        return capsys.readouterr().err.count("`fer fetch yunet` installs a better detector")

    monkeypatch.delenv("FER_PREDICT_DETECTOR")
    assert hints() == 1
    assert hints("--detector", "haar") == hints("--detector", "none") == 0
    (workspace / "cache").mkdir()
    file = "face_detection_yunet_2026may.onnx"
    shutil.copy(shared_data / "models" / file, workspace / "cache" / file)
    assert hints() == 0


def test_no_readable_file_is_exit_code_2_with_rows_written(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--model", "model", "images/broken.png", "missing.png", "--out", "predictions.jsonl"]) == 2
    assert len((workspace / "predictions.jsonl").read_text().splitlines()) == 2
    assert "no file could be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere", "images"], "nowhere"),
        (["--model", "model"], "PATHS"),
        (["--model", "model", "images", "--min-confidence", "60"], "--min-confidence"),
        (["--model", "model", "images", "--out", "no/such/folder/x.csv"], "--out"),
        (["--model", "model", "images", "--explain"], "--explain needs --draw"),
        (["--model", "model", "images", "--draw", "images"], "choose another folder"),
        (["--model", "model", "images", "--draw", "images/0.png/x"], "--draw"),
    ],
)
def test_user_errors_are_one_line(
    workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["predict", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_many_files_go_through_ray_and_give_the_same_rows_in_the_same_order(workspace: Path, ray_cluster: None) -> None:
    video = cv2.VideoWriter(str(workspace / "images/film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for i in range(5):
        video.write(np.full((48, 64, 3), 40 * i, np.uint8))
    video.release()
    arguments = ["predict", "--model", "model", "images", "missing.png", "--device", "cpu"]
    assert main([*arguments, "--out", "local.jsonl", "--draw", "local", "--ray-above", "5"]) == 0
    assert main([*arguments, "--out", "ray.jsonl", "--draw", "ray", "--ray-above", "4", "--workers", "2"]) == 0
    local, remote = (rows_of(workspace / name) for name in ("local.jsonl", "ray.jsonl"))
    assert len(local) == 2 + 1 + 5 + 1
    scores = [[row.pop("scores") or {} for row in rows] for rows in (local, remote)]
    confidences = [[row.pop("confidence") for row in rows] for rows in (local, remote)]
    assert remote == local
    assert confidences[1] == pytest.approx(confidences[0], abs=2e-5)
    assert all(one == pytest.approx(other, abs=2e-5) for one, other in zip(*scores, strict=True))
    drawn = [sorted(file.name for file in (workspace / name).rglob("*.*")) for name in ("local", "ray")]
    assert drawn == [["0.jpg", "1.jpg", "contact-sheet-1.jpg", "film.mp4"]] * 2


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, jobs.predict; sys.exit(bool({'torch', 'ray', 'cv2', 'numpy', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
