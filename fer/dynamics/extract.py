"""From a video of one face to frame pairs: landmarks, baseline frame, alignment, optical flow.

A video is read twice, one frame at a time: first to detect landmarks, from which the baseline frame is chosen, then to
compute the flow from the baseline to every frame.
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
from fer.dynamics.predict.options import ExtractionOptions
from fer.errors import UserError

ALIGNED_SIDE = 2 * flow.SIDE
"""Side of the aligned faces on which the flow is computed, in pixels."""
MARGIN = 0.15
"""Margin around the face on each side, as a fraction of the face's size."""
MIN_CANDIDATES = 3
"""The baseline is chosen from the first third of the frames, but from at least so many."""


@dataclass(frozen=True, eq=False)
class LandmarkFrame:
    """The landmarks of one frame of a video."""

    number: int
    seconds: float
    landmarks: np.ndarray | None
    """Pixels (146, 2); None if no face was found."""


def detect_landmarks(
    video: Path, landmarker: Landmarker, options: ExtractionOptions
) -> tuple[list[LandmarkFrame], LandmarkFrame]:
    """The landmarks of each frame of a video, and the baseline frame.

    Raises UserError if the video can't be read or shows no face, or if ``options.baseline`` is a frame without a face.
    """
    stream = tqdm(
        video_frames(video, options.frame_stride), unit="frame", desc=f"{video.name}: landmarks", disable=None
    )
    frames = [LandmarkFrame(frame.number, frame.seconds, landmarker(frame.image)) for frame in stream]
    faces = [frame for frame in frames if frame.landmarks is not None]
    if not faces:
        raise UserError(
            f"{video}: no face was found in any of {len(frames)} frames; does it show a person's face from the front?"
        )
    if options.baseline is None:
        return frames, stillest_frame(faces[: max(MIN_CANDIDATES, len(faces) // 3)])
    for face in faces:
        if face.number == options.baseline:
            return frames, face
    raise UserError(f"--baseline {options.baseline}: no face was found in that frame of {video}; choose another")


def stillest_frame(faces: Sequence[LandmarkFrame]) -> LandmarkFrame:
    """The frame whose landmarks differ least from those before and after it, after removing head movement."""
    steps = [_landmark_distance(one, other) for one, other in pairwise(faces)]
    motion = [
        np.mean([step for index, step in enumerate(steps) if index in (number - 1, number)] or [0.0])
        for number in range(len(faces))
    ]
    return faces[int(np.argmin(motion))]


def frame_pairs(
    video: Path, frames: Sequence[LandmarkFrame], baseline: LandmarkFrame, options: ExtractionOptions
) -> Iterator[FramePair]:
    """Each frame with a face, paired with the baseline; landmarks are in pixels of the 112x112 flow image."""
    assert baseline.landmarks is not None
    estimate_flow = flow.build_flow_estimator(options.flow)
    crop = face_crop(baseline.landmarks)
    stream = video_frames(video, options.frame_stride)
    baseline_face = _warp(next(frame.image for frame in stream if frame.number == baseline.number), crop)
    baseline_landmarks = _to_flow_pixels(transform_points(baseline.landmarks, crop))
    stream = tqdm(
        video_frames(video, options.frame_stride),
        total=len(frames),
        unit="frame",
        desc=f"{video.name}: flow",
        disable=None,
    )
    for frame, detected in zip(stream, frames, strict=True):
        if detected.landmarks is None:
            continue
        alignment = similarity_transform(detected.landmarks[RIGID], baseline.landmarks[RIGID])
        matrix = _compose(crop, alignment)
        flow_image = flow.to_image(flow.resize(estimate_flow(baseline_face, _warp(frame.image, matrix))))
        number = f"{detected.number:03}"
        yield FramePair(
            path=f"{video.stem}_{number}",
            video=video.stem,
            frame=number,
            flow=flow.encode_jpeg(flow_image),
            expression=_to_flow_pixels(transform_points(detected.landmarks, matrix)),
            baseline=baseline_landmarks,
        )


def check_unique_stems(paths: Sequence[str]) -> None:
    """Raise UserError if two files have the same name without suffix: outputs are named after it."""
    for name, count in Counter(Path(path).stem for path in paths).items():
        if count > 1:
            raise UserError(f"{count} of the paths are named {name!r}: rename them, or process them one at a time")


def similarity_transform(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The (2, 3) rotation, scaling and translation that maps points (N, 2) to ``target`` (N, 2), in least squares."""
    centre, target_centre = points.mean(axis=0), target.mean(axis=0)
    z, w = ((cloud - cloud.mean(axis=0)) @ [1, 1j] for cloud in (points, target))
    factor = np.vdot(z, w) / np.vdot(z, z).real
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([linear, target_centre - linear @ centre])


def face_crop(landmarks: np.ndarray) -> np.ndarray:
    """The (2, 3) map from an image to the square around a face, ALIGNED_SIDE pixels wide."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    scale = ALIGNED_SIDE / (max(high - low) * (1 + 2 * MARGIN))
    centre = np.full(2, (ALIGNED_SIDE - 1) / 2)
    return np.column_stack([np.eye(2) * scale, centre - scale * (low + high) / 2])


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (N, 2) under an affine map (2, 3)."""
    return cv2.transform(points[None].astype(np.float64), matrix)[0]


def _compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The affine map (2, 3) that applies ``first``, then ``second``."""
    return second @ np.vstack([first, [0, 0, 1]])


def _warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    side = (ALIGNED_SIDE, ALIGNED_SIDE)
    return cv2.warpAffine(image, matrix, side, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _to_flow_pixels(points: np.ndarray) -> np.ndarray:
    """From pixels of the aligned face to pixels of the flow image; pixel centres are at integer coordinates in both."""
    return ((points + 0.5) * (flow.SIDE / ALIGNED_SIDE) - 0.5).astype(np.float32)


def _landmark_distance(one: LandmarkFrame, other: LandmarkFrame) -> float:
    """Mean distance between the aligned landmarks of two frames, relative to the face's width."""
    assert one.landmarks is not None
    assert other.landmarks is not None
    alignment = similarity_transform(other.landmarks[RIGID], one.landmarks[RIGID])
    aligned = transform_points(other.landmarks, alignment)
    return float(np.linalg.norm(aligned - one.landmarks, axis=1).mean() / np.ptp(one.landmarks[:, 0]))
