"""Inference of the dynamics model: a frame, or an uploaded video, to scores."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from fer.data.video import video_frames
from fer.dynamics.frames import FramePair, check_flow, check_landmarks
from fer.dynamics.landmarker import Landmarker
from fer.dynamics.predict.options import ExtractionOptions
from fer.dynamics.predict.reader import score_video
from fer.dynamics.predictor import DynamicsPredictor, to_levels
from fer.errors import BadRow, UserError
from serve_apps.options import DynamicsServeConfig
from serve_apps.reloadable_model import LoadedModel
from serve_apps.request_parsing import DynamicsFrame
from serve_apps.schema import DynamicsInfo, DynamicsResponse, FrameScores, InvalidInput

LoadedDynamicsModel = LoadedModel[DynamicsPredictor, DynamicsInfo]


def load_dynamics_model(folder: Path, name: str, version: str, config: DynamicsServeConfig) -> LoadedDynamicsModel:
    """Load the dynamics model of a model folder."""
    predictor = DynamicsPredictor(folder, config.device)
    takes_videos = config.landmarker is not None
    info = DynamicsInfo(name=name, version=version, branch=predictor.spec.branch, takes_videos=takes_videos)
    return LoadedModel(predictor, info)


def predict_frame(frame: DynamicsFrame, model: LoadedDynamicsModel) -> DynamicsResponse | InvalidInput:
    """The scores of one frame."""
    try:
        check_flow(frame.flow)
        expression, baseline = (check_landmarks(np.array(points)) for points in (frame.expression, frame.baseline))
        scores = model.predictor.predict([FramePair("", "", "", frame.flow, expression, baseline)])
    except BadRow as error:
        return InvalidInput(reason=str(error))
    return DynamicsResponse(frames=[_frame_scores(scores[0])], model=model.info)


def predict_video(
    data: bytes, model: LoadedDynamicsModel, landmarker: Landmarker, config: DynamicsServeConfig
) -> DynamicsResponse | InvalidInput:
    """The scores of every frame of a video file. It is in a temporary file while OpenCV reads it."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video"
        video.write_bytes(data)
        try:
            _check_size(video, config)
            frames, baseline, scores = score_video(video, model.predictor, landmarker, ExtractionOptions())
        except UserError as error:
            return InvalidInput(reason=str(error).replace(str(video), "the video"))
    rows = [
        _frame_scores(values, frame=frame.number, seconds=round(frame.seconds, 3))
        for frame, values in zip(frames, scores, strict=True)
    ]
    return DynamicsResponse(frames=rows, baseline_frame=baseline.number, model=model.info)


def _check_size(video: Path, config: DynamicsServeConfig) -> None:
    """Raise UserError if the video has more frames, or larger ones, than the server accepts."""
    for frame in video_frames(video):
        height, width = frame.image.shape[:2]
        if width * height > config.max_pixels:
            raise UserError(f"the video has frames of {width}x{height} pixels, more than {config.max_pixels}")
        if frame.number >= config.max_frames:
            raise UserError(f"the video has more than {config.max_frames} frames")


def _frame_scores(scores: np.ndarray, frame: int | None = None, seconds: float | None = None) -> FrameScores:
    if np.isnan(scores).any():
        return FrameScores(
            frame=frame, seconds=seconds, dynamics=None, dynamics_level=None, synkinesis=None, synkinesis_level=None
        )
    dynamics, synkinesis = scores.tolist()
    dynamics_level, synkinesis_level = to_levels(scores).tolist()
    return FrameScores(
        frame=frame,
        seconds=seconds,
        dynamics=dynamics,
        dynamics_level=dynamics_level,
        synkinesis=synkinesis,
        synkinesis_level=synkinesis_level,
    )
