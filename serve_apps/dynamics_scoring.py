"""What a copy of the scorer does: keeps its model up to date, and turns frames and videos into scores."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer.data.video import video_frames
from fer.dynamics.frames import FramePair, check_flow, check_landmarks
from fer.dynamics.landmarker import Landmarker
from fer.dynamics.predict.options import VideoOptions
from fer.dynamics.predict.reader import score_video
from fer.dynamics.predictor import Scorer, levels
from fer.errors import BadRow, UserError
from serve_apps.live_model import LiveModel
from serve_apps.options import DynamicsServeConfig
from serve_apps.request_parsing import DynamicsFrame
from serve_apps.schema import DynamicsScores, FrameScores, ScorerInfo, Unreadable


@dataclass(frozen=True)
class LoadedScorer:
    """One version in memory."""

    scorer: Scorer
    info: ScorerInfo


class LiveScorer(LiveModel):
    """The scorer that a reference means now."""

    current: LoadedScorer  # type: ignore[assignment]

    def __init__(self, config: DynamicsServeConfig) -> None:
        self.takes_videos = config.landmarker is not None
        super().__init__(config.model, config, config.device)

    def open(self, folder: Path, name: str, version: str) -> LoadedScorer:  # type: ignore[override]
        scorer = Scorer(folder, self.device)
        info = ScorerInfo(name=name, version=version, branch=scorer.spec.branch, takes_videos=self.takes_videos)
        return LoadedScorer(scorer, info)


def answer_frame(sent: DynamicsFrame, loaded: LoadedScorer) -> DynamicsScores | Unreadable:
    """The scores of one frame."""
    try:
        check_flow(sent.flow)
        expression, baseline = (check_landmarks(np.array(points)) for points in (sent.expression, sent.baseline))
    except BadRow as bad:
        return Unreadable(reason=str(bad))
    scores = loaded.scorer([FramePair("", "", "", sent.flow, expression, baseline)])
    return DynamicsScores(frames=[_frame(scores[0])], model=loaded.info)


def answer_video(
    data: bytes, loaded: LoadedScorer, landmarker: Landmarker, config: DynamicsServeConfig
) -> DynamicsScores | Unreadable:
    """The scores of every frame of a video. It lies in a temporary file while OpenCV reads it."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video"
        video.write_bytes(data)
        try:
            _check_size(video, config)
            seen, rest, scores = score_video(video, loaded.scorer, landmarker, VideoOptions())
        except UserError as error:
            return Unreadable(reason=str(error).replace(str(video), "the video"))
    answers = [
        _frame(values, frame=each.number, seconds=round(each.seconds, 3))
        for each, values in zip(seen, scores, strict=True)
    ]
    return DynamicsScores(frames=answers, baseline_frame=rest.number, model=loaded.info)


def _check_size(video: Path, config: DynamicsServeConfig) -> None:
    """Raise UserError for more frames, or larger ones, than the server takes."""
    for frame in video_frames(video):
        height, width = frame.image.shape[:2]
        if width * height > config.max_pixels:
            raise UserError(f"the video has frames of {width}x{height} pixels, more than {config.max_pixels}")
        if frame.number >= config.max_frames:
            raise UserError(f"the video has more than {config.max_frames} frames")


def _frame(scores: np.ndarray, frame: int | None = None, seconds: float | None = None) -> FrameScores:
    if np.isnan(scores).any():
        return FrameScores(
            frame=frame, seconds=seconds, dynamics=None, dynamics_level=None, synkinesis=None, synkinesis_level=None
        )
    dynamics, synkinesis = scores.tolist()
    dynamics_level, synkinesis_level = levels(scores).tolist()
    return FrameScores(
        frame=frame,
        seconds=seconds,
        dynamics=dynamics,
        dynamics_level=dynamics_level,
        synkinesis=synkinesis,
        synkinesis_level=synkinesis_level,
    )
