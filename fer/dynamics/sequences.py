"""Drawn sequences as a data set of frames, to try the whole pipeline on: a test pattern, no clinical data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer.data.synthetic.sequence import sequence
from fer.dynamics import flow
from fer.dynamics.frames import FramePair, write_frame


def write_sequences(
    root: Path, videos: int, frames: int, movement: str = "smile", seed: int = 0, jitter: float = 0.0
) -> None:
    """Write ``root/MOVEMENT/VIDEO_FRAME/`` for so many videos, each of a person of its own.

    The flow is the true one, and so are the landmarks but for ``jitter``, the standard deviation of a landmark
    detector's mistakes as a share of the face's width; a video has one baseline, with one mistake. Another seed gives
    other people.
    """
    for number in range(1, videos + 1):
        rng = np.random.default_rng([seed, number])
        moments = sequence(movement, frames, rng, flow.SIDE)
        baseline = _jittered(moments[0].baseline_landmarks, jitter, rng)
        for place, moment in enumerate(moments, 1):
            video, frame = f"{number:02}", f"{place:03}"
            picture = flow.draw(moment.flow() / flow.SIDE)
            pair = FramePair(
                path=f"{movement}/{video}_{frame}",
                video=video,
                frame=frame,
                flow=flow.encode(picture),
                expression=_jittered(moment.expression_landmarks, jitter, rng),
                baseline=baseline,
                scores=(moment.dynamics, moment.synkinesis),
            )
            write_frame(root / pair.path, pair)


def _jittered(landmarks: np.ndarray, jitter: float, rng: np.random.Generator) -> np.ndarray:
    return landmarks + rng.normal(0, jitter * np.ptp(landmarks[:, 0]), landmarks.shape).astype(np.float32)
