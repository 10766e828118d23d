"""From a video of one face to frame pairs: landmarks, a frame at rest, alignment, optical flow.

A video is read twice, one picture at a time: once for the landmarks, by which the frame at rest is chosen, and once for
the flow from that frame to each of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from fer.data.landmarks import RIGID
from fer.data.video import video_frames
from fer.dynamics import flow
from fer.dynamics.frames import FramePair
from fer.dynamics.landmarker import Landmarker
from fer.dynamics.predict.options import VideoOptions
from fer.errors import UserError

WORKING_SIDE = 2 * flow.SIDE
"""Pixels of the aligned faces between which the flow is computed."""
MARGIN = 0.15
"""The square around the face is wider than the face by this share on each side."""
FEWEST_EARLY = 3


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame that was looked at."""

    number: int
    seconds: float
    landmarks: np.ndarray | None
    """Pixels (146, 2); None where no face was found."""


def look(video: Path, landmarker: Landmarker, options: VideoOptions) -> tuple[list[Seen], Seen]:
    """All frames of a video with their landmarks, and the one at rest.

    Raises UserError for a video that can't be read or shows no face, and a baseline that is not one of its faces.
    """
    stream = tqdm(video_frames(video, options.every), unit="frame", desc=f"{video.name}: landmarks", disable=None)
    seen = [Seen(frame.number, frame.seconds, landmarker(frame.image)) for frame in stream]
    faces = [each for each in seen if each.landmarks is not None]
    if not faces:
        raise UserError(
            f"{video}: no face was found in any of {len(seen)} frames; is it a person's face, seen from the front?"
        )
    if options.baseline is None:
        return seen, stillest(faces[: max(FEWEST_EARLY, len(faces) // 3)])
    for face in faces:
        if face.number == options.baseline:
            return seen, face
    raise UserError(f"--baseline {options.baseline}: {video} has no face in that frame; choose another")


def stillest(faces: Sequence[Seen]) -> Seen:
    """The frame whose landmarks differ least from those before and after it, head movement apart."""
    steps = [_distance(one, next_one) for one, next_one in pairwise(faces)]
    around = [
        np.mean([step for place, step in enumerate(steps) if place in (number - 1, number)] or [0.0])
        for number in range(len(faces))
    ]
    return faces[int(np.argmin(around))]


def frame_pairs(
    video: Path, seen: Sequence[Seen], rest: Seen, options: VideoOptions
) -> Iterator[tuple[Seen, FramePair]]:
    """Each frame with a face, as a pair with the frame at rest; landmarks are in pixels of the 112x112 picture."""
    assert rest.landmarks is not None
    method = flow.open_method(options.flow)
    to_square = square(rest.landmarks)
    still = next(frame.image for frame in video_frames(video, options.every) if frame.number == rest.number)
    still = _cut(still, to_square)
    baseline = _to_picture(move(rest.landmarks, to_square))
    stream = tqdm(
        video_frames(video, options.every), total=len(seen), unit="frame", desc=f"{video.name}: flow", disable=None
    )
    for frame, here in zip(stream, seen, strict=True):
        if here.landmarks is None:
            continue
        matrix = _after(to_square, similarity(here.landmarks[RIGID], rest.landmarks[RIGID]))
        picture = flow.draw(flow.shrink(method(still, _cut(frame.image, matrix))))
        number = f"{here.number:03}"
        expression = _to_picture(move(here.landmarks, matrix))
        yield here, FramePair(f"{video.stem}_{number}", video.stem, number, flow.encode(picture), expression, baseline)


def check_names(paths: Sequence[str]) -> None:
    """Raise UserError if two files would be told apart by their folders only: results carry a file's name."""
    for name, count in Counter(Path(path).stem for path in paths).items():
        if count > 1:
            raise UserError(f"{count} of the paths are called {name!r}: rename them, or take them one at a time")


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The (2, 3) turn, scaling and shift that brings points (N, 2) nearest to ``target`` (N, 2), in least squares."""
    middle, target_middle = points.mean(axis=0), target.mean(axis=0)
    z, w = ((cloud - cloud.mean(axis=0)) @ [1, 1j] for cloud in (points, target))
    factor = np.vdot(z, w) / np.vdot(z, z).real
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([linear, target_middle - linear @ middle])


def square(landmarks: np.ndarray) -> np.ndarray:
    """The (2, 3) map from a picture to the square around a face, WORKING_SIDE pixels wide."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    scale = WORKING_SIDE / (max(high - low) * (1 + 2 * MARGIN))
    middle = np.full(2, (WORKING_SIDE - 1) / 2)
    return np.column_stack([np.eye(2) * scale, middle - scale * (low + high) / 2])


def move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (N, 2) moved by an affine map (2, 3)."""
    return cv2.transform(points[None].astype(np.float64), matrix)[0]


def _after(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Two affine maps (2, 3), one after the other, as one."""
    return second @ np.vstack([first, [0, 0, 1]])


def _cut(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    side = (WORKING_SIDE, WORKING_SIDE)
    return cv2.warpAffine(image, matrix, side, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _to_picture(points: np.ndarray) -> np.ndarray:
    """From pixels of the working square to pixels of the flow picture; a pixel's centre is a whole number in both."""
    return ((points + 0.5) * (flow.SIDE / WORKING_SIDE) - 0.5).astype(np.float32)


def _distance(one: Seen, other: Seen) -> float:
    """Mean distance of two faces' landmarks once they are aligned, relative to the face's width."""
    assert one.landmarks is not None
    assert other.landmarks is not None
    aligned = move(other.landmarks, similarity(other.landmarks[RIGID], one.landmarks[RIGID]))
    return float(np.linalg.norm(aligned - one.landmarks, axis=1).mean() / np.ptp(one.landmarks[:, 0]))
