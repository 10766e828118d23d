"""Videos as files: H.264 in MP4, with the sound of another video."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

CLOCK = Fraction(1, 90_000)
"""Unit of the time stamps, in seconds: frames may come at any time."""
COPIED_AUDIO = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")
"""What an MP4 file can hold; other sound is encoded as AAC."""
AUDIO_RATE = 48_000


class VideoWriter:
    """Writes frames of ``size`` (width and height, even) at their times, with the sound of the video ``source``.

    A context manager; the file appears at ``path`` when it is complete. ``stride`` says that every n-th frame of the
    source will come.
    """

    def __init__(self, path: Path, source: Path, size: tuple[int, int], stride: int = 1) -> None:
        self.path, self.part = path, path.with_name(f"{path.name}.part")
        self.source = av.open(str(source), metadata_errors="ignore")
        self.output = av.open(str(self.part), "w", format="mp4", options={"movflags": "+faststart"})
        # Times in the output count from the start of the source, those of frames from the first frame.
        self.start = Fraction(self.source.start_time or 0, av.time_base)
        video = self.source.streams.video[0]
        self.first_frame = (video.start_time or 0) * (video.time_base or CLOCK) - self.start
        rate = (video.average_rate or Fraction(25)) / stride
        self.video = self.output.add_stream("libx264", rate, options={"crf": "20", "preset": "veryfast"})
        self.video.width, self.video.height = size
        self.video.pix_fmt = "yuv420p"
        self.video.codec_context.time_base = CLOCK
        self.sound = self._sound(self.source.streams.audio[0]) if self.source.streams.audio else iter(())
        self.next_sound = next(self.sound, None)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.output.mux(self.video.encode(None))
                self._mux_sound(None)
        finally:
            self.output.close()
            self.source.close()
        if kind is None:
            self.part.replace(self.path)
        else:
            self.part.unlink()

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Write a frame, RGB (H, W, 3) uint8; ``seconds`` increase, and count from the first frame of the source."""
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        time = Fraction(seconds) + self.first_frame
        frame.pts, frame.time_base = round(time / CLOCK), CLOCK
        self.output.mux(self.video.encode(frame))
        self._mux_sound(time)

    def _mux_sound(self, until: Fraction | None) -> None:
        """Write the sound up to a time, beside its frames in the file; None: all of it."""
        while (packet := self.next_sound) is not None:
            if until is not None and (packet.pts or 0) * packet.time_base > until:
                return
            self.output.mux(packet)
            self.next_sound = next(self.sound, None)

    def _sound(self, stream: av.AudioStream) -> Iterator[av.Packet]:
        """The packets of the sound, with times as in the output: copied, or encoded if MP4 can't hold them."""
        if stream.codec_context.codec.canonical_name in COPIED_AUDIO:
            copy = self.output.add_stream_from_template(stream)
            for packet in self.source.demux(stream):
                if packet.dts is not None:  # the last one is empty
                    shift = round(self.start / (packet.time_base or CLOCK))
                    packet.pts = packet.dts = packet.dts - shift
                    packet.stream = copy
                    yield packet
            return
        encoder = self.output.add_stream("aac", AUDIO_RATE, layout="mono" if stream.channels == 1 else "stereo")
        for frame in self.source.decode(stream):
            if frame.pts is not None:
                frame.pts -= round(self.start / (frame.time_base or CLOCK))
            yield from encoder.encode(frame)
        yield from encoder.encode(None)
