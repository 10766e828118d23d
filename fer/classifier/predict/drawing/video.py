"""Annotated videos: a second pass over the frames, with the predictions of the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain, groupby, islice
from pathlib import Path

import numpy as np
from PIL import Image

from fer.classifier.predict.drawing.card import Face
from fer.classifier.predict.drawing.picture import Page, content, even, face_pixels
from fer.classifier.predict.drawing.style import PANEL
from fer.classifier.predict.drawing.timeline import HEIGHT, Timeline, main_track
from fer.classifier.predict.rows import PredictionRow
from fer.data.video import Frame, show_progress, video_frames
from fer.data.video_writer import VideoWriter
from fer.faces.options import MARGIN

MAX_CARDS = 6
"""Cards beside a video; further faces have a box only."""
MIN_TRACK = 0.1
"""Tracks that are shorter than this part of the longest one have no card: most of them are false detections."""


def draw_video(rows: Sequence[PredictionRow], source: Path, out: Path, stride: int = 1, margin: float = MARGIN) -> None:
    """Write an annotated copy of a video, with its sound, to an MP4 file.

    ``rows`` are the video's predictions with the frame stride ``stride``, in the order of time. The copy has the frames
    that were predicted, at their times. One frame is in memory at a time.
    """
    rows = [row for row in rows if row.frame is not None]
    by_frame = {frame: list(group) for frame, group in groupby(rows, key=lambda row: row.frame)}
    source_frames = islice(video_frames(source, stride), len(by_frame))  # no further: the file may be damaged there
    frames = show_progress(source_frames, f"drawing {source.name}", len(by_frame))
    first = next(frames)
    height, width = first.image.shape[:2]
    painter = VideoPainter((width, height), rows, margin)
    with VideoWriter(out, source, painter.size, stride) as writer:
        for frame in chain([first], frames):
            writer.write(np.asarray(painter.draw(frame, by_frame[frame.number])), frame.seconds)


class VideoPainter:
    """Draws the frames of a video of ``size`` with the predictions ``rows``; each face keeps its place on the page."""

    def __init__(self, size: tuple[int, int], rows: Sequence[PredictionRow], margin: float) -> None:
        labels, affect = content(rows)
        self.margin, self.slots = margin, assign_slots(rows)
        self.page = Page(size, labels, affect, cards=max(self.slots.values(), default=-1) + 1)
        width, height = self.page.size
        self.timeline: Timeline | None = None
        if track := main_track(rows):
            duration, numbered = rows[-1].seconds or 0.0, self.page.painter.numbered
            self.timeline = Timeline(width, self.page.text, track, labels, duration, numbered)
            height += HEIGHT * self.page.text
        self.size = width, even(height)

    def draw(self, frame: Frame, rows: Sequence[PredictionRow]) -> Image.Image:
        """The page of a frame whose predictions are ``rows``, and the strip under it."""
        faces: list[Face | None] = [None] * len(self.page.corners)
        for row in rows:
            if row.error is None and row.face in self.slots:
                faces[self.slots[row.face]] = Face(row, face_pixels(frame.image, row, self.margin))
        canvas = Image.new("RGB", self.size, PANEL)
        canvas.paste(self.page.draw(frame.image, rows, faces))
        if self.timeline:
            canvas.paste(self.timeline.draw(frame.seconds), (0, self.page.size[1]))
        return canvas


def assign_slots(rows: Sequence[PredictionRow]) -> dict[int | None, int]:
    """The card of each track: the first that no other track needs at the same time."""
    faces = [row for row in rows if row.error is None]
    frames = Counter(row.face for row in faces)
    shortest = MIN_TRACK * max(frames.values(), default=0)
    last_frame = {row.face: row.frame or 0 for row in faces}
    slots: dict[int | None, int] = {}
    ends: list[int] = []
    for row in faces:
        if row.face in slots or frames[row.face] < shortest:
            continue
        slot = next((slot for slot, end in enumerate(ends) if end < (row.frame or 0)), len(ends))
        if slot < MAX_CARDS:
            ends[slot : slot + 1] = [last_frame[row.face]]
            slots[row.face] = slot
    return slots
