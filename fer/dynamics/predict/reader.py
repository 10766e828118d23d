"""A trained scorer on videos and folders of frames: tables, and a curve over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from fer.dynamics.evaluate import predictions
from fer.dynamics.extract import Seen, frame_pairs, look
from fer.dynamics.frames import read_frames
from fer.dynamics.landmarker import Landmarker
from fer.dynamics.predict.options import VideoOptions
from fer.dynamics.predictor import Scorer, levels
from fer.dynamics.preflight import describe
from fer.dynamics.scores import NOTE, SCORES
from fer.errors import UserError


def score_video(
    video: Path, scorer: Scorer, landmarker: Landmarker, options: VideoOptions
) -> tuple[list[Seen], Seen, np.ndarray]:
    """A video's N frames, the one at rest, and the scores (N, 2), NaN where no face was. Raises as `look` does."""
    seen, rest = look(video, landmarker, options)
    found = scorer([pair for _, pair in frame_pairs(video, seen, rest, options)])
    scores = np.full((len(seen), len(SCORES)), np.nan, np.float32)
    scores[[each.landmarks is not None for each in seen]] = found
    return seen, rest, scores


def score_frames(location: str, scorer: Scorer) -> tuple[pa.Table, dict[str, str]]:
    """The table of a folder or zip of frames, labelled or not, and the frames set aside with their reasons."""
    frames, set_aside = read_frames(location, labelled=False)
    if not frames:
        reasons = (
            describe(set_aside) if set_aside else "no folders EXPRESSION/VIDEO_FRAME with optical_flow.jpg in each"
        )
        raise UserError(f"{location} is no video and holds no frame that can be scored: {reasons}")
    return predictions(frames, scorer(frames)), set_aside


def video_table(seen: Sequence[Seen], scores: np.ndarray) -> pa.Table:
    """One row a frame: its number, its time, its scores as real numbers and as levels; empty where no face was."""
    columns = {
        "frame": pa.array([each.number for each in seen]),
        "seconds": pa.array([round(each.seconds, 3) for each in seen]),
    }
    known = ~np.isnan(scores[:, 0])
    for column, score in enumerate(SCORES):
        values = np.round(scores[:, column].astype(float), 4)
        columns[score] = pa.array(values, mask=~known)
        columns[f"{score}_level"] = pa.array(levels(np.nan_to_num(values)), mask=~known)
    columns["note"] = pa.array([NOTE] * len(seen))
    return pa.table(columns)
