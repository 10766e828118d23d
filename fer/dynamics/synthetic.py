"""Rendered sequences as a data set of frames: a test pattern for the whole pipeline, not clinical data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer.data.synthetic.sequence import sample_sequence
from fer.dynamics import flow
from fer.dynamics.frames import FramePair, write_frame


def write_sequences(
    root: Path, videos: int, frames: int, movement: str = "smile", seed: int = 0, jitter: float = 0.0
) -> None:
    """Write ``root/MOVEMENT/VIDEO_FRAME/`` for ``videos`` videos of ``frames`` frames, each of another person.

    Flow and landmarks are the ground truth, but for ``jitter``: the standard deviation of a landmark detector's error,
    as a fraction of the face's width. The baseline's error is the same throughout a video. Another seed gives other
    people.
    """
    for number in range(1, videos + 1):
        rng = np.random.default_rng([seed, number])
        moments = sample_sequence(movement, frames, rng, flow.SIDE)
        baseline = _add_jitter(moments[0].baseline_landmarks, jitter, rng)
        for index, moment in enumerate(moments, 1):
            video, frame = f"{number:02}", f"{index:03}"
            image = flow.to_image(moment.flow() / flow.SIDE)
            pair = FramePair(
                path=f"{movement}/{video}_{frame}",
                video=video,
                frame=frame,
                flow=flow.encode_jpeg(image),
                expression=_add_jitter(moment.expression_landmarks, jitter, rng),
                baseline=baseline,
                scores=(moment.dynamics, moment.synkinesis),
            )
            write_frame(root / pair.path, pair)


def _add_jitter(landmarks: np.ndarray, jitter: float, rng: np.random.Generator) -> np.ndarray:
    return landmarks + rng.normal(0, jitter * np.ptp(landmarks[:, 0]), landmarks.shape).astype(np.float32)
