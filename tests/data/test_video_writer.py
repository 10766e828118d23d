"""Written videos: times of the frames, and the sound beside them."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from fer.data.video import video_frames
from fer.data.video_writer import VideoWriter

RATE = 48_000
STEADY = [n / 25 for n in range(75)]
VARIABLE = [n / 10 if n < 10 else 1 + (n - 10) / 4 for n in range(18)]


def make_source(path: Path, times: list[float], codec: str | None, first: float = 0.0) -> Path:
    """A video whose frame flashes, and whose sound beeps, from 1 to 1.5 seconds; times start at ``first``."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg2video" if path.suffix == ".mpg" else "mpeg4", 25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        if path.suffix not in (".avi", ".mpg"):  # these have a constant frame rate
            video.codec_context.time_base = Fraction(1, 1000)
        sound = file.add_stream(codec, RATE, layout="mono", bit_rate=128_000) if codec else None
        for seconds in times:
            value = 230 if 1 <= seconds < 1.5 else 20
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round((seconds + first) * 1000), Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if sound:
            for start in range(0, int(times[-1] * RATE), 960):
                clock = (start + np.arange(960)) / RATE
                wave = np.where((clock >= 1) & (clock < 1.5), 0.5 * np.sin(2 * np.pi * 440 * clock), 0)
                piece = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = RATE, start + round(first * RATE), Fraction(1, RATE)
                file.mux(sound.encode(piece))
            file.mux(sound.encode(None))
    return path


def copy(source: Path, out: Path, stride: int = 1) -> None:
    with VideoWriter(out, source, (64, 48), stride) as writer:
        for frame in video_frames(source, stride):
            writer.write(frame.image, frame.seconds)


def flash_times(path: Path) -> list[float]:
    """Times of the bright frames, in seconds on the file's clock."""
    with av.open(str(path)) as file:
        return [float(frame.time) for frame in file.decode(video=0) if frame.to_ndarray(format="gray").mean() > 128]


def beep(path: Path) -> tuple[float, float]:
    """Where the sound is loud, in seconds on the file's clock."""
    loud = []
    with av.open(str(path)) as file:
        for frame in file.decode(audio=0):
            wave = np.abs(frame.to_ndarray().astype(float)).reshape(-1)
            wave = wave / (32767 if frame.format.name.startswith("s16") else 1)
            loud += [float(frame.time) + n / frame.sample_rate for n in np.flatnonzero(wave > 0.2)]
    return min(loud), max(loud)


@pytest.mark.parametrize(
    ("name", "codec", "times", "copied"),
    [
        ("a.mp4", "aac", STEADY, True),
        ("a.mp4", "aac", VARIABLE, True),
        ("a.mkv", "libopus", VARIABLE, True),
        ("a.avi", "libmp3lame", STEADY, True),
        ("a.avi", "pcm_s16le", STEADY, False),
        ("a.wmv", "wmav2", VARIABLE, False),
        ("a.mpg", "mp2", STEADY, False),
    ],
)
def test_frames_keep_their_times_and_the_sound_stays_beside_them(
    tmp_path: Path, name: str, codec: str, times: list[float], copied: bool
) -> None:
    source, out = make_source(tmp_path / name, times, codec), tmp_path / "out.mp4"
    copy(source, out)
    before, after = (flash_times(path) for path in (source, out))
    assert len(after) == sum(1 <= seconds < 1.5 for seconds in times)
    assert np.diff(after) == pytest.approx(np.diff(before), abs=0.002)
    assert after[0] - beep(out)[0] == pytest.approx(before[0] - beep(source)[0], abs=0.03)
    assert np.ptp(beep(out)) == pytest.approx(np.ptp(beep(source)), abs=0.03)
    with av.open(str(source)) as first, av.open(str(out)) as second:
        assert second.streams.audio[0].codec_context.codec.canonical_name in (
            ("aac", "opus", "mp3") if copied else "aac"
        )
        if copied:
            packets = [[bytes(p) for p in file.demux(audio=0) if p.size] for file in (first, second)]
            assert packets[0] == packets[1]


def test_a_source_that_does_not_start_at_zero(tmp_path: Path) -> None:
    """As MPEG streams do: here, the first frame is at 5 seconds."""
    source, out = make_source(tmp_path / "a.mkv", STEADY, "libopus", first=5.0), tmp_path / "out.mp4"
    copy(source, out)
    assert flash_times(out)[0] - beep(out)[0] == pytest.approx(flash_times(source)[0] - beep(source)[0], abs=0.03)
    assert flash_times(out)[0] == pytest.approx(1.0, abs=0.03)


def test_with_a_stride_the_sound_stays_beside_the_frames(tmp_path: Path) -> None:
    source, out = make_source(tmp_path / "a.mp4", STEADY, "aac"), tmp_path / "out.mp4"
    copy(source, out, stride=3)
    assert flash_times(out) == pytest.approx([1.08, 1.2, 1.32, 1.44], abs=0.002)
    assert beep(out) == pytest.approx(beep(source), abs=0.03)


def test_a_video_without_sound(tmp_path: Path) -> None:
    source, out = make_source(tmp_path / "a.mp4", STEADY, None), tmp_path / "out.mp4"
    copy(source, out)
    with av.open(str(out)) as file:
        assert not file.streams.audio
        assert file.streams.video[0].codec_context.name == "h264"
        assert file.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_an_interrupted_video_leaves_nothing(tmp_path: Path) -> None:
    source, out = make_source(tmp_path / "a.mp4", STEADY, "aac"), tmp_path / "out"
    out.mkdir()
    with suppress(KeyboardInterrupt), VideoWriter(out / "a.mp4", source, (64, 48)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8), 0.0)
        raise KeyboardInterrupt
    assert list(out.iterdir()) == []
