"""Reads videos and folders of frames, scores their frames, and makes tables of the scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fer.dynamics.extract import LandmarkFrame, detect_landmarks, frame_pairs
from fer.dynamics.frames import FramePair, read_frames, summarize_rejected
from fer.dynamics.landmarker import Landmarker
from fer.dynamics.predict.options import ExtractionOptions
from fer.dynamics.predictor import DynamicsPredictor, to_levels
from fer.dynamics.scores import SCORES, SHORT_DISCLAIMER
from fer.errors import UserError


def score_video(
    video: Path, predictor: DynamicsPredictor, landmarker: Landmarker, options: ExtractionOptions
) -> tuple[list[LandmarkFrame], LandmarkFrame, np.ndarray]:
    """A video's N frames, its baseline, and scores (N, 2), NaN without a face. Raises UserError if none has a face."""
    frames, baseline = detect_landmarks(video, landmarker, options)
    scores = np.full((len(frames), len(SCORES)), np.nan, np.float32)
    has_face = [frame.landmarks is not None for frame in frames]
    scores[has_face] = predictor.predict(list(frame_pairs(video, frames, baseline, options)))
    return frames, baseline, scores


def score_frames(location: str, predictor: DynamicsPredictor) -> tuple[pa.Table, dict[str, str]]:
    """The table of a folder or zip of frames, labelled or not, and the rejected frames: path to reason."""
    frames, rejected = read_frames(location, require_labels=False)
    if not frames:
        reason = (
            summarize_rejected(rejected)
            if rejected
            else "expected folders EXPRESSION/VIDEO_FRAME with optical_flow.jpg in each"
        )
        raise UserError(f"{location} is not a video and has no usable frame: {reason}")
    return frame_table(frames, predictor.predict(frames)), rejected


def frame_table(frames: Sequence[FramePair], scores: np.ndarray) -> pa.Table:
    """One row per frame: path, video, frame, scores (N, 2) as numbers and as levels, and true levels or null."""
    columns: dict[str, Any] = {name: [getattr(pair, name) for pair in frames] for name in ("path", "video", "frame")}
    for column, score in enumerate(SCORES):
        columns[score] = np.round(scores[:, column].astype(float), 4)
        columns[f"{score}_level"] = to_levels(scores[:, column])
        true = [pair.scores[column] if pair.scores else None for pair in frames]
        columns[f"true_{score}"] = pa.array(true, pa.int64())
    columns["note"] = [SHORT_DISCLAIMER] * len(frames)
    return pa.table(columns)


def video_table(frames: Sequence[LandmarkFrame], scores: np.ndarray) -> pa.Table:
    """One row per frame: number, time, scores (N, 2) as numbers and as levels; null without a face."""
    columns = {
        "frame": pa.array([frame.number for frame in frames]),
        "seconds": pa.array([round(frame.seconds, 3) for frame in frames]),
    }
    missing = np.isnan(scores[:, 0])
    for column, score in enumerate(SCORES):
        values = np.round(scores[:, column].astype(float), 4)
        columns[score] = pa.array(values, mask=missing)
        columns[f"{score}_level"] = pa.array(to_levels(np.nan_to_num(values)), mask=missing)
    columns["note"] = pa.array([SHORT_DISCLAIMER] * len(frames))
    return pa.table(columns)
