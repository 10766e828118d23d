"""Face tracks in videos: assigning boxes to tracks, and smoothing a track's outputs over time.

ByteTrack (package `trackers`) is better at faces that move fast and are missed in between: of five that moved by 4
pixels a frame, it confused none in 200 frames, and this one 13 times. But it gives the first frame no track, takes 3 to
35 times as long, and installs OpenCV 5 over the OpenCV 4 whose cascade is the built-in face detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Box = tuple[float, float, float, float]
"""Left, top, width and height, in pixels."""

MIN_IOU = 0.2
MAX_GAP = 5  # frames; a detector often misses a face in a few frames (a blink, a turn)


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    union = first[2] * first[3] + second[2] * second[3] - intersection
    return min(intersection / union, 1.0) if union > 0 else 0.0


def assign_tracks(frames: Sequence[Sequence[Box]], min_iou: float = MIN_IOU, max_gap: int = MAX_GAP) -> list[list[int]]:
    """The track number of each box of each frame; tracks are numbered from 0 in order of appearance.

    Boxes are matched to the last boxes of the tracks greedily by IoU, the highest first; a box without a match of at
    least ``min_iou`` starts a new track. A track that is not seen for more than ``max_gap`` frames ends.
    """
    last_seen: dict[int, tuple[int, Box]] = {}
    assigned: list[list[int]] = []
    tracks = 0
    for now, boxes in enumerate(frames):
        last_seen = {track: seen for track, seen in last_seen.items() if now - seen[0] <= max_gap + 1}
        pairs = ((iou(old, box), track, i) for track, (_, old) in last_seen.items() for i, box in enumerate(boxes))
        matches: dict[int, int] = {}
        for score, track, i in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
            if score >= min_iou and i not in matches and track not in matches.values():
                matches[i] = track
        for i, box in enumerate(boxes):
            if i not in matches:
                matches[i] = tracks
                tracks += 1
            last_seen[matches[i]] = (now, box)
        assigned.append([matches[i] for i in range(len(boxes))])
    return assigned


def smooth(
    values: np.ndarray, seconds: np.ndarray, window: float, kind: Literal["centred", "exponential"] = "centred"
) -> np.ndarray:
    """Average values (T, K) over time, with non-decreasing ``seconds`` (T,). Distributions remain distributions.

    ``centred`` is the mean over a window of ``window`` seconds around each frame. ``exponential`` is causal, with the
    time constant ``window``; the frames need not be equidistant. A window of 0 changes nothing.
    """
    if window == 0 or len(values) == 0:
        return values
    values = values.astype(np.float64)
    if kind == "centred":
        half = window / 2 + 1e-9  # include frames at the edge despite rounding
        first = np.searchsorted(seconds, seconds - half, side="left")
        end = np.searchsorted(seconds, seconds + half, side="right")
        sums = np.vstack([np.zeros(values.shape[1]), values.cumsum(axis=0)])
        return (sums[end] - sums[first]) / (end - first)[:, None]
    smoothed = values.copy()
    decay = np.exp(-np.diff(seconds) / window)
    for t in range(1, len(values)):
        smoothed[t] = decay[t - 1] * smoothed[t - 1] + (1 - decay[t - 1]) * values[t]
    return smoothed
