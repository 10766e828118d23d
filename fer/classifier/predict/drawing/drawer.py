"""Draws files as they are predicted, into the folder of `fer predict --draw`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer.classifier.predict.drawing.card import Face
from fer.classifier.predict.drawing.contact_sheet import ContactSheets
from fer.classifier.predict.drawing.picture import MAX_CARDS, draw_faces, face_pixels
from fer.classifier.predict.drawing.style import JPEG
from fer.classifier.predict.drawing.video import draw_video
from fer.classifier.predict.pipeline import FilePredictor
from fer.classifier.predict.rows import PredictionRow
from fer.data.video import is_video
from fer.errors import UserError


class Drawer:
    """Draws the files ``paths`` into ``folder``, with contact sheets if several of them are images.

    Raises UserError for a folder that can't be written to or holds an input, and if a video is to be explained.
    """

    def __init__(self, predictor: FilePredictor, paths: Sequence[str], folder: Path) -> None:
        self.predictor, self.options, self.folder = predictor, predictor.options, folder
        videos = [path for path in paths if is_video(Path(path))]
        if self.options.explain and videos:
            raise UserError(f"--explain works on images only: leave {videos[0]} out")
        self.files = output_files(paths, self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failure(error) from None
        self.sheets = ContactSheets(self.folder, predictor.labels) if len(paths) - len(videos) > 1 else None

    def draw(self, rows: Sequence[PredictionRow]) -> None:
        """Draw a file; ``rows`` are all of its predictions. A file that can't be read is left out."""
        path = rows[0].path
        try:
            self.files[path].parent.mkdir(parents=True, exist_ok=True)
            if is_video(Path(path)):
                self._draw_video(rows)
            else:
                self._draw_image(rows)
        except OSError as error:
            raise self._failure(error) from None

    def finish(self) -> None:
        """Write the last contact sheet."""
        if self.sheets:
            self.sheets.finish()

    def _draw_video(self, rows: Sequence[PredictionRow]) -> None:
        if any(row.is_readable for row in rows):
            file = self.files[rows[0].path]
            with self.predictor.reader.local_video(rows[0].path) as source:
                draw_video(rows, source, file, self.options.frame_stride, self.options.margin)

    def _draw_image(self, rows: Sequence[PredictionRow]) -> None:
        image = self.predictor.reader.load_image(rows[0].path)
        if isinstance(image, str):
            return
        maps = None
        if self.options.explain:
            maps = [self._explain(image, row) for row in rows[:MAX_CARDS] if row.error is None]
        draw_faces(image, rows, maps, self.options.margin).save(self.files[rows[0].path], **JPEG)
        for row in rows:
            if self.sheets and row.is_readable:
                self.sheets.add(Face(row, face_pixels(image, row, self.options.margin)))

    def _failure(self, error: OSError) -> UserError:
        return UserError(f"--draw {self.folder}: {(error.strerror or str(error)).lower()}")

    def _explain(self, image: np.ndarray, row: PredictionRow) -> np.ndarray:
        from fer.classifier.predict.explain import explain

        assert row.best_label is not None, "--explain needs a model with labels"
        return explain(self.predictor.predictor, face_pixels(image, row, self.options.margin), row.best_label)


def output_files(paths: Sequence[str], folder: Path) -> dict[str, Path]:
    """The drawn file of each input: in ``folder``, in the same sub-folders as the inputs have below their common one.

    No two are the same, also where upper and lower case are not told apart. Raises UserError if an input is in
    ``folder``, where it could be overwritten.
    """
    for path in paths:
        if Path(path).resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--draw {folder}: the folder holds {path}, an input; choose another folder")
    parents = {path: os.path.dirname(os.path.abspath(path)) for path in paths}
    common = os.path.commonpath(parents.values())
    files: dict[str, Path] = {}
    taken: set[str] = set()
    for path, parent in parents.items():
        name = os.path.join(os.path.relpath(parent, common), Path(path).stem)
        suffix, number = ".mp4" if is_video(Path(path)) else ".jpg", 1
        drawn = os.path.normpath(name + suffix)
        while drawn.lower() in taken or re.fullmatch(r"contact-sheet-\d+\.jpg", drawn.lower()):
            number += 1
            drawn = os.path.normpath(f"{name}-{number}{suffix}")
        taken.add(drawn.lower())
        files[path] = folder / drawn
    return files
