"""Frame pairs on disk: `ROOT/<expression>/<video>_<frame>/` with a flow picture, two sets of landmarks, scores."""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer.data.filesystem import FileTree
from fer.data.images import check_header, decode_rgb
from fer.data.landmarks import INDICES
from fer.data.schema import FaceRow
from fer.data.splits import assign_splits
from fer.dynamics.flow import SIDE
from fer.dynamics.scores import SCORES
from fer.errors import BadRow

FLOW = "optical_flow.jpg"
EXPRESSION, BASELINE = "expression_landmarks.npy", "baseline_landmarks.npy"
LABELS = "expression_g_column.json"


@dataclass(frozen=True, eq=False)
class FramePair:
    """One frame of a video against the video's baseline frame."""

    path: str
    """Its folder, relative to the root."""
    video: str
    """Its video's number or name; frames of one video never part in a split."""
    frame: str
    flow: bytes
    """The flow picture, encoded: 112x112 RGB."""
    expression: np.ndarray
    """Landmarks of the frame: pixels (146, 2), float32, in the order of `fer.data.landmarks`."""
    baseline: np.ndarray
    """Likewise, of the baseline frame."""
    scores: tuple[int, ...] | None = None
    """The levels of `SCORES`, where they are known."""


def read_frames(location: str, labelled: bool = True) -> tuple[list[FramePair], dict[str, str]]:
    """All frames below a folder or zip (or one expression's folder), sorted, and those set aside with their reasons.

    Without ``labelled`` a frame may lack its scores. Raises UserError for a location that can't be read.
    """
    tree = FileTree(location)
    known = {FLOW, EXPRESSION, BASELINE, LABELS}
    folders = sorted({posixpath.dirname(path) for path in tree.files if posixpath.basename(path) in known})
    frames, set_aside = [], {}
    for folder in folders:
        try:
            frames.append(_read(tree, folder, labelled))
        except BadRow as error:
            set_aside[folder] = str(error)
    return frames, set_aside


def write_frame(folder: Path, pair: FramePair) -> None:
    """Write a frame's files into its folder; the scores where they are known."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FLOW).write_bytes(pair.flow)
    np.save(folder / EXPRESSION, pair.expression)
    np.save(folder / BASELINE, pair.baseline)
    if pair.scores is not None:
        (folder / LABELS).write_text(json.dumps(dict(zip(SCORES, pair.scores, strict=True))))


def split_by_video(frames: Sequence[FramePair], val_split: float, test_split: float, seed: int) -> list[str]:
    """`train`, `val` or `test` for each frame, whole videos together, their shares of each level of dynamics alike.

    Videos of one name count as one in all expressions: the number may stand for a patient.
    """
    rows = [FaceRow(pair.path, pair.scores[0] if pair.scores else 0, bytes, group=pair.video) for pair in frames]
    return assign_splits(rows, val_split=val_split, test_split=test_split, seed=seed)


def check_flow(data: bytes) -> None:
    """Raise BadRow unless ``data`` is an encoded picture of 112x112 pixels."""
    width, height = check_header(data, max_pixels=1_000_000, max_bytes=2**20)
    if (width, height) != (SIDE, SIDE):
        raise BadRow(f"a flow picture of {width}x{height} pixels, not {SIDE}x{SIDE}")


def check_landmarks(points: np.ndarray) -> np.ndarray:
    """Landmarks as float32. Raises BadRow unless they are 146 finite points in the plane that do not coincide."""
    if points.shape != (len(INDICES), 2) or points.dtype.kind not in "fiu":
        raise BadRow(f"landmarks of shape {points.shape} and type {points.dtype}, not ({len(INDICES)}, 2) numbers")
    points = points.astype(np.float32)
    if not np.isfinite(points).all() or not np.ptp(points, axis=0).any():
        raise BadRow("landmarks that are not finite, or all the same")
    return points


def _read(tree: FileTree, folder: str, labelled: bool) -> FramePair:
    video, underscore, frame = posixpath.basename(folder).rpartition("_")
    if not underscore or not video:
        raise BadRow("the folder is not named VIDEO_FRAME")
    flow = _file(tree, folder, FLOW)
    check_flow(flow)
    decode_rgb(flow)  # a damaged picture is rejected here, not in the middle of training
    expression, baseline = (_landmarks(_file(tree, folder, name), name) for name in (EXPRESSION, BASELINE))
    scores = None
    if labelled or f"{folder}/{LABELS}".lstrip("/") in tree.files:
        scores = _scores(_file(tree, folder, LABELS))
    return FramePair(folder, video, frame, flow, expression, baseline, scores)


def _file(tree: FileTree, folder: str, name: str) -> bytes:
    try:
        return tree.read(posixpath.join(folder, name))
    except BadRow as error:
        raise BadRow(f"{name}: {error}") from None


def _landmarks(data: bytes, name: str) -> np.ndarray:
    try:
        points = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, MemoryError):
        raise BadRow(f"{name}: not an array that NumPy can read") from None
    try:
        return check_landmarks(points)
    except BadRow as error:
        raise BadRow(f"{name}: {error}") from None


def _scores(data: bytes) -> tuple[int, ...]:
    try:
        labels: Any = json.loads(data)
    except ValueError:
        raise BadRow(f"{LABELS}: not JSON") from None
    if not isinstance(labels, Mapping):
        raise BadRow(f"{LABELS}: not an object")
    for name, top in SCORES.items():
        value = labels.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or value not in range(top + 1):
            raise BadRow(f"{LABELS}: {name} is {value!r}, not a whole number from 0 to {top}")
    return tuple(int(labels[name]) for name in SCORES)
