"""Videos as streams of frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from fer.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")


class Frame(NamedTuple):
    """One picture of a video."""

    number: int
    """Place in the video, from 0, counting every frame."""
    seconds: float
    """Time in the video."""
    image: np.ndarray
    """RGB (H, W, 3), uint8."""


def is_video(path: Path) -> bool:
    """Whether a file's name is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def video_frames(path: Path, every: int = 1) -> Iterator[Frame]:
    """Each ``every``-th frame of a video, the first one first; only one frame is held at a time.

    Raises UserError at once where there is no such file, or none that OpenCV can decode.
    """
    assert every >= 1, f"every {every}-th frame"
    if not path.is_file():
        raise UserError(f"no video at {path}")
    video = cv2.VideoCapture(str(path))
    if not video.isOpened() or not video.grab():
        video.release()
        raise UserError(f"{path} is not a video that OpenCV can read: convert it to MP4 (H.264), or leave it out")
    return _stream(video, every, path)


def _stream(video: cv2.VideoCapture, every: int, path: Path) -> Iterator[Frame]:
    """Frames from the one that was just grabbed on; those between are skipped without converting their pixels."""
    try:
        number, grabbed = 0, True
        while grabbed:
            if number % every == 0:
                decoded, picture = video.retrieve()
                if not decoded:
                    raise UserError(f"frame {number} of {path} can't be decoded: the file is damaged, convert it anew")
                seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
                yield Frame(number, seconds, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
            number, grabbed = number + 1, video.grab()
    finally:
        video.release()
