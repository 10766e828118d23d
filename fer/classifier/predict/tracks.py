"""Faces over time: following each face from frame to frame, and averaging what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Box = tuple[float, float, float, float]
"""Left, top, width and height, in pixels."""

MIN_OVERLAP = 0.2
MAX_GAP = 5  # frames: a detector often loses a face for a moment (a blink, a turn) and finds it again


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = first[2] * first[3] + second[2] * second[3] - shared
    return min(shared / union, 1.0) if union > 0 else 0.0


def follow(
    frames: Sequence[Sequence[Box]], min_overlap: float = MIN_OVERLAP, max_gap: int = MAX_GAP
) -> list[list[int]]:
    """Number the faces of a video: the same number for a face in every frame, 0 for the first one seen.

    ``frames`` holds each frame's boxes. A box continues the track whose last box it overlaps most, the greatest
    overlaps first; below ``min_overlap`` it begins a new track. A track not seen for more than ``max_gap`` frames has
    ended.
    """
    last_seen: dict[int, tuple[int, Box]] = {}
    numbers: list[list[int]] = []
    tracks = 0
    for now, boxes in enumerate(frames):
        last_seen = {track: seen for track, seen in last_seen.items() if now - seen[0] <= max_gap + 1}
        pairs = ((overlap(old, box), track, i) for track, (_, old) in last_seen.items() for i, box in enumerate(boxes))
        chosen: dict[int, int] = {}
        for shared, track, i in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
            if shared >= min_overlap and i not in chosen and track not in chosen.values():
                chosen[i] = track
        for i, box in enumerate(boxes):
            if i not in chosen:
                chosen[i] = tracks
                tracks += 1
            last_seen[chosen[i]] = (now, box)
        numbers.append([chosen[i] for i in range(len(boxes))])
    return numbers


def smooth(
    values: np.ndarray, seconds: np.ndarray, window: float, kind: Literal["centred", "exponential"] = "centred"
) -> np.ndarray:
    """Average values (T, K) over time; ``seconds`` (T,) never falls. Distributions stay distributions.

    ``centred`` takes the mean over the values within half a ``window`` of seconds on either side. ``exponential`` looks
    at the past only, with weights that fall by the factor e in each ``window``; gaps between frames count by their
    length. A window of 0 changes nothing.
    """
    if window == 0 or len(values) == 0:
        return values
    values = values.astype(np.float64)
    if kind == "centred":
        half = window / 2 + 1e-9  # frames at the very edge count, whatever the rounding
        first = np.searchsorted(seconds, seconds - half, side="left")
        end = np.searchsorted(seconds, seconds + half, side="right")
        sums = np.vstack([np.zeros(values.shape[1]), values.cumsum(axis=0)])
        return (sums[end] - sums[first]) / (end - first)[:, None]
    smoothed = values.copy()
    kept = np.exp(-np.diff(seconds) / window)
    for t in range(1, len(values)):
        smoothed[t] = kept[t - 1] * smoothed[t - 1] + (1 - kept[t - 1]) * values[t]
    return smoothed
