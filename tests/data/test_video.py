"""Frames of real and damaged videos."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from fer.data.video import Frame, count_frames, is_video, show_progress, video_frames
from fer.errors import UserError


@pytest.mark.parametrize(("name", "count"), [("single_face.mp4", 72), ("two_people.mp4", 115), ("no_face.mp4", 95)])
def test_every_frame_comes_in_order(shared_data: Path, name: str, count: int) -> None:
    numbers, last = [], -1.0
    for number, seconds, image in video_frames(shared_data / "videos" / name):
        numbers.append(number)
        assert seconds > last
        last = seconds
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
    assert numbers == list(range(count))


def test_every_nth_frame_is_the_one_of_the_whole_stream(shared_data: Path) -> None:
    path = shared_data / "videos" / "single_face.mp4"
    whole = {frame.number: frame for frame in video_frames(path)}
    some = list(video_frames(path, stride=30))
    assert [frame.number for frame in some] == [0, 30, 60]
    for frame in some:
        assert frame.seconds == pytest.approx(frame.number / 30, abs=0.01)  # 30 frames per second
        np.testing.assert_array_equal(frame.image, whole[frame.number].image)


def test_times_increase_where_the_last_frame_has_none(tmp_path: Path) -> None:
    path = tmp_path / "noise.mpg"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg2video", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(50):
            pixels = np.full((48, 64, 3), 4 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    for stride in (1, 7):
        seconds = [frame.seconds for frame in video_frames(path, stride)]
        assert seconds == pytest.approx([n / 25 for n in range(0, 50, stride)], abs=0.05)  # MPEG's times are rounded
        assert min(np.diff(seconds)) > 0


def test_the_number_of_frames_is_known_before(tmp_path: Path) -> None:
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    for _ in range(7):
        writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    for stride in (1, 2, 3, 7, 8):
        assert count_frames(path, stride) == len(list(video_frames(path, stride)))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_progress_is_shown_on_a_terminal_only(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    frames = [Frame(number, number / 25, np.zeros((2, 2, 3), np.uint8)) for number in range(3)]
    assert list(show_progress(frames, "reading a.mp4", 3)) == frames
    assert ("reading a.mp4:   0%" in stream.getvalue()) == stream.isatty()
    assert bool(stream.getvalue()) == stream.isatty()


def test_colours_are_rgb(tmp_path: Path) -> None:
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    for _ in range(3):
        writer.write(np.full((32, 32, 3), (0, 0, 255), np.uint8))  # BGR
    writer.release()
    (first, *rest) = video_frames(path)
    assert len(rest) == 2
    red, green, blue = first.image.mean(axis=(0, 1))
    assert red > 200
    assert max(green, blue) < 50


def test_a_file_that_is_not_a_video_is_a_user_error(tmp_path: Path) -> None:
    """At once, not with the first frame."""
    with pytest.raises(UserError, match="no such video"):
        video_frames(tmp_path / "nowhere.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(UserError, match="not a video that OpenCV can read"):
        video_frames(tmp_path / "text.mp4")


def test_is_video_checks_the_suffix() -> None:
    assert is_video(Path("a/clip.MP4"))
    assert is_video(Path("clip.webm"))
    assert not is_video(Path("face.png"))
