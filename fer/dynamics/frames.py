"""Frame pairs on disk: `ROOT/<expression>/<video>_<frame>/` with flow image, landmarks and scores."""

from __future__ import annotations

import io
import json
import posixpath
from collections import Counter
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
    """A frame of a video, paired with the video's baseline frame, in which the face is at rest."""

    path: str
    """Folder, relative to the root."""
    video: str
    """Number or name of the video; all frames of a video are in the same split."""
    frame: str
    flow: bytes
    """Encoded flow image, 112x112 RGB: the optical flow from the baseline to this frame."""
    expression: np.ndarray
    """Landmarks of this frame: pixels (146, 2), float32, in the order of `fer.data.landmarks`."""
    baseline: np.ndarray
    """Landmarks of the baseline frame, likewise."""
    scores: tuple[int, ...] | None = None
    """True levels in the order of `SCORES`; None if unlabelled."""


def read_frames(location: str, require_labels: bool = True) -> tuple[list[FramePair], dict[str, str]]:
    """All frames below a folder or zip (or one expression's folder), sorted, and the rejected ones: path to reason.

    Without ``require_labels`` a frame may lack scores. Raises UserError for a location that can't be read.
    """
    tree = FileTree(location)
    known = {FLOW, EXPRESSION, BASELINE, LABELS}
    folders = sorted({posixpath.dirname(path) for path in tree.files if posixpath.basename(path) in known})
    frames, rejected = [], {}
    for folder in folders:
        try:
            frames.append(_read(tree, folder, require_labels))
        except BadRow as error:
            rejected[folder] = str(error)
    return frames, rejected


def summarize_rejected(rejected: Mapping[str, str]) -> str:
    """The reasons in one line, each with its count and an example."""
    example = {reason: path for path, reason in reversed(list(rejected.items()))}
    counts = Counter(rejected.values()).most_common()
    return "; ".join(f"{count}: {reason} (such as {example[reason]})" for reason, count in counts)


def write_frame(folder: Path, pair: FramePair) -> None:
    """Write a frame's files into ``folder``, the scores if it has them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FLOW).write_bytes(pair.flow)
    np.save(folder / EXPRESSION, pair.expression)
    np.save(folder / BASELINE, pair.baseline)
    if pair.scores is not None:
        (folder / LABELS).write_text(json.dumps(dict(zip(SCORES, pair.scores, strict=True))))


def split_by_video(frames: Sequence[FramePair], val_split: float, test_split: float, seed: int) -> list[str]:
    """`train`, `val` or `test` for each frame: split by video, stratified by level of dynamics.

    Videos with the same name in several expressions stay together, since the number may stand for a patient.
    """
    rows = [FaceRow(pair.path, pair.scores[0] if pair.scores else 0, bytes, group=pair.video) for pair in frames]
    return assign_splits(rows, val_split=val_split, test_split=test_split, seed=seed)


def check_flow(data: bytes) -> None:
    """Raise BadRow unless ``data`` is an encoded image of 112x112 pixels."""
    width, height = check_header(data, max_pixels=1_000_000, max_bytes=2**20)
    if (width, height) != (SIDE, SIDE):
        raise BadRow(f"flow image of {width}x{height} pixels, not {SIDE}x{SIDE}")


def check_landmarks(points: np.ndarray) -> np.ndarray:
    """Landmarks (146, 2) as float32. Raises BadRow for another shape or type, NaN, or points that are all the same."""
    if points.shape != (len(INDICES), 2) or points.dtype.kind not in "fiu":
        raise BadRow(f"landmarks of shape {points.shape} and type {points.dtype}, not ({len(INDICES)}, 2) numbers")
    points = points.astype(np.float32)
    if not np.isfinite(points).all() or not np.ptp(points, axis=0).any():
        raise BadRow("landmarks are not finite, or all the same")
    return points


def _read(tree: FileTree, folder: str, require_labels: bool) -> FramePair:
    video, underscore, frame = posixpath.basename(folder).rpartition("_")
    if not underscore or not video:
        raise BadRow("the folder is not named VIDEO_FRAME")
    flow = _read_file(tree, folder, FLOW)
    check_flow(flow)
    decode_rgb(flow)  # a damaged image is rejected here, not in the middle of training
    expression, baseline = (_parse_landmarks(_read_file(tree, folder, name), name) for name in (EXPRESSION, BASELINE))
    scores = None
    if require_labels or f"{folder}/{LABELS}".lstrip("/") in tree.files:
        scores = _parse_scores(_read_file(tree, folder, LABELS))
    return FramePair(folder, video, frame, flow, expression, baseline, scores)


def _read_file(tree: FileTree, folder: str, name: str) -> bytes:
    try:
        return tree.read(posixpath.join(folder, name))
    except BadRow as error:
        raise BadRow(f"{name}: {error}") from None


def _parse_landmarks(data: bytes, name: str) -> np.ndarray:
    try:
        points = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, MemoryError):
        raise BadRow(f"{name}: not a NumPy array") from None
    try:
        return check_landmarks(points)
    except BadRow as error:
        raise BadRow(f"{name}: {error}") from None


def _parse_scores(data: bytes) -> tuple[int, ...]:
    try:
        labels: Any = json.loads(data)
    except ValueError:
        raise BadRow(f"{LABELS}: not JSON") from None
    if not isinstance(labels, Mapping):
        raise BadRow(f"{LABELS}: not a JSON object")
    for name, top in SCORES.items():
        value = labels.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or value not in range(top + 1):
            raise BadRow(f"{LABELS}: {name} is {value!r}, not an integer from 0 to {top}")
    return tuple(int(labels[name]) for name in SCORES)
