"""Frames on disk: reading, rejected frames, and splits by video."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer.dynamics.frames import BASELINE, EXPRESSION, FLOW, LABELS, FramePair, read_frames, split_by_video
from fer.dynamics.options import DynamicsConfig
from fer.dynamics.preflight import load_frames
from fer.errors import UserError

MakePairs = Callable[[list[int]], list[FramePair]]


def test_written_frames_are_read(sequences: Path) -> None:
    frames, rejected = read_frames(str(sequences))
    assert not rejected
    assert len(frames) == 40
    first = frames[0]
    assert (first.path, first.video, first.frame) == ("smile/01_001", "01", "001")
    assert first.expression.shape == first.baseline.shape == (146, 2)
    assert first.expression.dtype == np.float32
    assert all(pair.scores is not None for pair in frames)


def test_an_expressions_folder_and_a_zip_are_read_too(sequences: Path, tmp_path: Path) -> None:
    alone, _ = read_frames(str(sequences / "smile"))
    assert [pair.path for pair in alone[:1]] == ["01_001"]
    archive = shutil.make_archive(str(tmp_path / "frames"), "zip", sequences)
    zipped, _ = read_frames(archive)
    assert [pair.scores for pair in zipped] == [pair.scores for pair in alone]


def corrupt(folder: Path, fault: str) -> None:
    if fault == "no flow":
        (folder / FLOW).unlink()
    elif fault == "large flow":
        cv2.imwrite(str(folder / FLOW), np.zeros((64, 112, 3), np.uint8))
    elif fault == "broken flow":
        (folder / FLOW).write_bytes(b"not an image")
    elif fault == "478 points":
        np.save(folder / EXPRESSION, np.zeros((478, 3)))
    elif fault == "pickled":
        np.save(folder / BASELINE, np.array([{}], dtype=object), allow_pickle=True)
    elif fault == "not a number":
        np.save(folder / BASELINE, np.full((146, 2), np.nan))
    elif fault == "an archive":
        with (folder / BASELINE).open("wb") as file:
            np.savez(file, np.ones((146, 2)))
    elif fault == "no labels":
        (folder / LABELS).unlink()
    elif fault == "level 6":
        (folder / LABELS).write_text(json.dumps({"dynamics": 6, "synkinesis": 0}))
    elif fault == "half a level":
        (folder / LABELS).write_text(json.dumps({"dynamics": 2, "synkinesis": 0.5}))
    elif fault == "name":
        folder.rename(folder.with_name("unnamed"))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("no flow", "optical_flow.jpg: missing"),
        ("large flow", "112x64 pixels"),
        ("broken flow", "not an image"),
        ("478 points", r"expression_landmarks.npy: landmarks of shape \(478, 3\)"),
        ("pickled", "baseline_landmarks.npy: not a NumPy array"),
        ("not a number", "baseline_landmarks.npy: landmarks are not finite"),
        ("an archive", "baseline_landmarks.npy: not a NumPy array"),
        ("no labels", "expression_g_column.json: missing"),
        ("level 6", "dynamics is 6, not an integer from 0 to 5"),
        ("half a level", "synkinesis is 0.5"),
        ("name", "not named VIDEO_FRAME"),
    ],
)
def test_a_faulty_frame_is_rejected_with_its_reason(sequences: Path, tmp_path: Path, fault: str, reason: str) -> None:
    shutil.copytree(sequences, tmp_path / "copy")
    corrupt(tmp_path / "copy" / "smile" / "03_002", fault)
    frames, rejected = read_frames(str(tmp_path / "copy"))
    assert len(frames) == 39
    (found,) = rejected.values()
    assert re.search(reason, found)
    with pytest.raises(UserError, match="1 of 40 frames can't be used"):
        load_frames(DynamicsConfig(data=str(tmp_path / "copy")))
    assert len(load_frames(DynamicsConfig(data=str(tmp_path / "copy"), max_bad_fraction=0.1)).frames) == 39


def test_scoring_needs_no_labels(sequences: Path, tmp_path: Path) -> None:
    shutil.copytree(sequences / "smile" / "01_001", tmp_path / "smile" / "01_001")
    (tmp_path / "smile" / "01_001" / LABELS).unlink()
    frames, rejected = read_frames(str(tmp_path), require_labels=False)
    assert not rejected
    assert frames[0].scores is None


@given(st.lists(st.integers(1, 12), min_size=3, max_size=25), st.integers(0, 5), st.sampled_from([0.0, 0.2]))
@settings(max_examples=60, deadline=None)
def test_no_video_is_in_two_splits(make_pairs: MakePairs, lengths: list[int], seed: int, test_split: float) -> None:
    frames = make_pairs(lengths)
    splits = split_by_video(frames, 0.2, test_split, seed)
    splits_of: dict[str, set[str]] = {}
    for pair, split in zip(frames, splits, strict=True):
        splits_of.setdefault(pair.video, set()).add(split)
    assert all(len(found) == 1 for found in splits_of.values())
    assert set(splits) == ({"train", "val", "test"} if test_split else {"train", "val"})


def test_a_fifth_of_equal_videos_is_for_validation(make_pairs: MakePairs) -> None:
    splits = split_by_video(make_pairs([6] * 50), 0.2, 0.0, seed=0)
    assert 0.15 < splits.count("val") / len(splits) < 0.25
