"""Videos as streams of frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from fer.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")


class Frame(NamedTuple):
    """A decoded frame of a video."""

    number: int
    """Frame number in the video, from 0; skipped frames count."""
    seconds: float
    """Time since the start of the video; it increases from frame to frame."""
    image: np.ndarray
    """RGB (H, W, 3), uint8."""


def is_video(path: Path) -> bool:
    """Whether a file has the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def video_frames(path: Path, stride: int = 1) -> Iterator[Frame]:
    """Every ``stride``-th frame of a video from the first, with one frame in memory at a time.

    Raises UserError at once if there is no such file, or none that OpenCV can decode.
    """
    assert stride >= 1, stride
    if not path.is_file():
        raise UserError(f"no such video: {path}")
    video = cv2.VideoCapture(str(path))
    if not video.isOpened() or not video.grab():
        video.release()
        raise UserError(f"{path} is not a video that OpenCV can read: convert it to MP4 (H.264), or remove it")
    return _decode(video, stride, path)


def _decode(video: cv2.VideoCapture, stride: int, path: Path) -> Iterator[Frame]:
    """Frames from the one that was just grabbed; skipped frames are not converted to pixels."""
    try:
        number, seconds, grabbed = 0, -1.0, True
        duration = stride / (video.get(cv2.CAP_PROP_FPS) or 25)
        while grabbed:
            if number % stride == 0:
                decoded, image = video.retrieve()
                if not decoded:
                    raise UserError(f"frame {number} of {path} can't be decoded: the file is damaged")
                stamp = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
                seconds = stamp if stamp > seconds else seconds + duration  # MPEG's last frames may have no time stamp
                yield Frame(number, seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            number, grabbed = number + 1, video.grab()
    finally:
        video.release()


def count_frames(path: Path, stride: int = 1) -> int | None:
    """How many frames `video_frames` gives, as the file announces it; None if it does not."""
    video = cv2.VideoCapture(str(path))
    frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    return ceil(frames / stride) if frames > 0 else None


def show_progress(frames: Iterable[Frame], title: str, total: int | None) -> Iterator[Frame]:
    """The frames, with a bar that shows the progress and the remaining time; on a terminal only."""
    yield from tqdm(frames, desc=title, total=total, unit="frame", leave=False, disable=None)
