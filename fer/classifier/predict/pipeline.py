"""Prediction for files: read faces, run the model, track and smooth them over time, and fill the rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from fer.classifier.predict.options import PredictConfig
from fer.classifier.predict.reader import FaceCrop, FaceReader
from fer.classifier.predict.rows import UNCERTAIN, PredictionRow
from fer.classifier.predict.tracks import assign_tracks, smooth
from fer.classifier.predictor import Predictor
from fer.classifier.spec import ModelSpec
from fer.data.video import is_video
from fer.errors import UserError
from fer.faces.find import as_in_training
from fer.faces.options import Preprocessing
from fer.labels import likely_compound

BATCH_SIZE = 32
"""Files that are read ahead of the model, and faces in a batch."""
DIGITS = 5


class FilePredictor:
    """Predicts for image and video files with a model or an ensemble; relative paths start at ``base``.

    Raises UserError if a model, the detector or the device is not available, or an option does not fit the model.
    """

    def __init__(self, folders: Sequence[Path], options: PredictConfig, base: Path) -> None:
        self.predictor = Predictor(folders, options.device, options.tta)
        self.options = as_in_training(options, shared_preprocessing(self.predictor.specs))
        self.reader = FaceReader(self.options, base)
        self.labels = self.predictor.labels if self.predictor.has_expression else ()
        needs_labels = {
            "--compound": options.compound,
            "--min-confidence": options.min_confidence,
            "--explain": options.explain,
        }
        for option, value in needs_labels.items():
            if value and not self.labels:
                raise UserError(
                    f"{option} needs a model with an expression head; this one has valence and arousal only"
                )

    def predict(self, paths: Sequence[str]) -> list[list[PredictionRow]]:
        """The rows of each file, at least one per file, in the order of ``paths``."""
        images = [path for path in paths if not is_video(Path(path))]
        rows: dict[str, list[PredictionRow]] = {path: [] for path in paths}
        for row in self.predict_images(self.reader.load_images(images)):
            rows[row.path].append(row)
        for path in paths:
            if path not in images:
                rows[path] = self._predict_video(path)
        return [rows[path] for path in paths]

    def predict_images(self, images: Iterable[tuple[str, np.ndarray | str]]) -> Iterator[PredictionRow]:
        """The rows of images; each comes with its path, and is RGB (H, W, 3) uint8 or an error message."""
        for face in self._run_model(self.reader.crop_images(images)):
            yield self._fill_row(face)

    def _predict_video(self, path: str) -> list[PredictionRow]:
        faces = list(self._run_model(self.reader.read_video(path)))
        self._assign_tracks(faces)
        self._smooth(faces)
        return [self._fill_row(face) for face in faces]

    def _run_model(self, faces: Iterable[FaceCrop]) -> Iterator[FaceCrop]:
        """Fill in the outputs, batch by batch, and release the pixels."""
        stream = iter(faces)
        while batch := list(islice(stream, BATCH_SIZE)):
            crops = [face for face in batch if face.pixels is not None]
            predictions = self.predictor.predict([crop.pixels for crop in crops if crop.pixels is not None])
            heads = [head for head in (predictions.probabilities, predictions.valence_arousal) if head is not None]
            for crop, outputs in zip(crops, np.concatenate(heads, axis=1), strict=True):
                crop.pixels, crop.outputs = None, outputs
            yield from batch

    def _assign_tracks(self, faces: Sequence[FaceCrop]) -> None:
        """Set the ``face`` of each row to its track."""
        frames = [[face for face in group if face.row.box] for _, group in groupby(faces, lambda face: face.row.frame)]
        boxes = [[face.row.box for face in frame if face.row.box] for frame in frames]
        for frame, tracks in zip(frames, assign_tracks(boxes), strict=True):
            for face, track in zip(frame, tracks, strict=True):
                face.row.face = track

    def _smooth(self, faces: Sequence[FaceCrop]) -> None:
        """Average the outputs of each track over time."""
        tracks: dict[int | None, list[FaceCrop]] = {}
        for face in faces:
            if face.outputs is not None:
                tracks.setdefault(face.row.face, []).append(face)
        for track in tracks.values():
            seconds = np.array([face.row.seconds for face in track])
            outputs = np.stack([face.outputs for face in track if face.outputs is not None])
            smoothed = smooth(outputs, seconds, self.options.smooth, self.options.smoothing)
            for face, values in zip(track, smoothed, strict=True):
                face.outputs = values

    def _fill_row(self, face: FaceCrop) -> PredictionRow:
        row, outputs = face.row, face.outputs
        if outputs is None:
            return row
        if self.labels:
            best = int(outputs[: len(self.labels)].argmax())
            row.confidence = round(float(outputs[best]), DIGITS)
            row.label = self.labels[best] if row.confidence >= self.options.min_confidence else UNCERTAIN
            row.scores = {label: round(float(p), DIGITS) for label, p in zip(self.labels, outputs, strict=False)}
            row.compound = likely_compound(row.scores) if self.options.compound else None
        if self.predictor.has_affect:
            row.valence, row.arousal = (round(float(value), DIGITS) for value in outputs[-2:])
        return row


def shared_preprocessing(specs: Sequence[ModelSpec]) -> Preprocessing | None:
    """How the faces of the models' training data were cut out. Raises UserError for an ensemble that does not agree."""
    known = [spec.preprocessing for spec in specs if spec.preprocessing]
    if any(each != known[0] for each in known):
        raise UserError("an ensemble needs models whose training data were cut out of photographs in the same way")
    return known[0] if known else None


def predict_files(predictor: FilePredictor, paths: Sequence[str]) -> Iterator[list[PredictionRow]]:
    """The rows of each file in turn, computed in this process."""
    for start in range(0, len(paths), BATCH_SIZE):
        yield from predictor.predict(paths[start : start + BATCH_SIZE])
