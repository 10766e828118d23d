"""From files to rows: what a model says of each face in images and videos. Ray actors use the same reader."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import cv2
import numpy as np
from pydantic import BaseModel

from fer.classifier.predict.options import PredictConfig
from fer.classifier.predict.tracks import follow, smooth
from fer.classifier.predictor import Predictor
from fer.data.images import MAX_BYTES, decode_untrusted
from fer.data.sources.folder import is_image
from fer.data.video import is_video, video_frames
from fer.errors import BadRow, UserError
from fer.faces import crop, open_detector
from fer.labels import likely_compound

UNCERTAIN = "uncertain"
NO_FACE = "no face found"
BATCH = 32  # files read ahead of the model, and faces scored at once
DIGITS = 5


class PredictionRow(BaseModel):
    """What is said of one face; or why nothing can be said of a file, image or frame (``error``)."""

    path: str
    frame: int | None = None
    """Frame of a video, and its time in seconds."""
    seconds: float | None = None
    face: int | None = None
    """Number of the face in its image; in a video, the same number for one face throughout. None without a detector."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, width and height, in pixels of the image."""
    face_score: float | None = None
    """The detector's confidence that this is a face; None where it gives none (haar)."""
    label: str | None = None
    """The likeliest expression, or `uncertain`; None where the model has no expression head."""
    confidence: float | None = None
    """Probability of the likeliest expression."""
    compound: str | None = None
    """RAF-DB's compound label of the two likeliest expressions; None where they make none, or it was not asked for."""
    valence: float | None = None
    """In [-1, 1], and arousal likewise; None where the model has no valence-arousal head."""
    arousal: float | None = None
    scores: dict[str, float] | None = None
    """Probability of each label."""
    error: str | None = None

    @property
    def was_read(self) -> bool:
        return self.error is None or self.error == NO_FACE


@dataclass
class Sighting:
    """A face (or a whole image, or a fault) on its way to its row."""

    row: PredictionRow
    pixels: np.ndarray | None = None
    """RGB uint8 (H, W, 3); None where there is nothing to score, and once scored."""
    scores: np.ndarray | None = None
    """Probabilities, then valence and arousal: whichever the model has."""


class FileReader:
    """Reads files and says what the model, or the ensemble, sees in them. ``base`` is what relative paths start from.

    Raises UserError for models, detectors and devices that can't be had.
    """

    def __init__(self, folders: Sequence[Path], options: PredictConfig, base: Path) -> None:
        self.options, self.base = options, base
        self.predictor = Predictor(folders, options.device, options.tta)
        model_file = Path(options.detector_model) if options.detector_model else None
        self.detector = None if options.detector == "none" else open_detector(options.detector, model_file)
        self.labels = self.predictor.labels if self.predictor.has_expression else ()
        self.threads = ThreadPoolExecutor(4, thread_name_prefix="read")
        if options.compound and not self.labels:
            raise UserError("--compound needs a model that names expressions; this one gives valence and arousal only")
        if options.min_confidence and not self.labels:
            raise UserError(
                "--min-confidence needs a model that names expressions; this one gives valence and arousal only"
            )

    def __call__(self, paths: Sequence[str]) -> list[list[PredictionRow]]:
        """The rows of each file, at least one a file, in the order of ``paths``."""
        images = [path for path in paths if not is_video(Path(path))]
        rows: dict[str, list[PredictionRow]] = {path: [] for path in paths}
        for row in self.predict_images(zip(images, self.threads.map(self.load_image, images), strict=True)):
            rows[row.path].append(row)
        for path in paths:
            if path not in images:
                rows[path] = self._read_video(path)
        return [rows[path] for path in paths]

    def predict_images(self, images: Iterable[tuple[str, np.ndarray | str]]) -> Iterator[PredictionRow]:
        """The rows of images, each given with its path: RGB uint8 (H, W, 3), or the reason why there are no pixels."""
        for sighting in self._score(self._in_images(images)):
            yield self._answer(sighting)

    def _in_images(self, images: Iterable[tuple[str, np.ndarray | str]]) -> Iterator[Sighting]:
        for path, pixels in images:
            if isinstance(pixels, str):
                yield Sighting(PredictionRow(path=path, error=pixels))
            else:
                yield from self._faces(PredictionRow(path=path), pixels)

    def load_image(self, path: str) -> np.ndarray | str:
        """Pixels, or the reason why there are none."""
        file = self.base / path
        try:
            if file.is_dir():
                raise BadRow("no image or video in this folder")
            with file.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
            return decode_untrusted(data)
        except BadRow as error:
            return str(error)
        except OSError as error:
            return (error.strerror or str(error)).lower()

    def _read_video(self, path: str) -> list[PredictionRow]:
        seen = list(self._score(self._in_video(path)))
        self._number_faces(seen)
        self._smooth(seen)
        return [self._answer(sighting) for sighting in seen]

    def _in_video(self, path: str) -> Iterator[Sighting]:
        try:
            for frame, seconds, pixels in video_frames(self.base / path, self.options.every):
                yield from self._faces(PredictionRow(path=path, frame=frame, seconds=round(seconds, 3)), pixels)
        except UserError as error:
            yield Sighting(PredictionRow(path=path, error=str(error)))

    def _faces(self, row: PredictionRow, image: np.ndarray) -> Iterator[Sighting]:
        """The faces of an image, cropped; the whole image where faces are not looked for."""
        if self.detector is None:
            yield Sighting(row, image)
            return
        try:
            boxes = self.detector.detect(image)
        except cv2.error as error:  # an image of a shape that the detector was not made for
            yield Sighting(row.model_copy(update={"error": f"face detection failed: {error.err}"}))
            return
        if not boxes:
            yield Sighting(row.model_copy(update={"error": NO_FACE}))
        for number, box in enumerate(boxes):
            place = (round(box.x, 1), round(box.y, 1), round(box.width, 1), round(box.height, 1))
            score = None if box.score is None else round(box.score, DIGITS)
            found = {"face": number, "box": place, "face_score": score}
            yield Sighting(row.model_copy(update=found), crop(image, box, self.options.margin))

    def _score(self, sightings: Iterable[Sighting]) -> Iterator[Sighting]:
        """Run the model on the faces, a batch at a time, and let go of their pixels."""
        stream = iter(sightings)
        while batch := list(islice(stream, BATCH)):
            faces = [sighting for sighting in batch if sighting.pixels is not None]
            scores = self.predictor.predict([face.pixels for face in faces if face.pixels is not None])
            parts = [part for part in (scores.probabilities, scores.valence_arousal) if part is not None]
            for face, values in zip(faces, np.concatenate(parts, axis=1), strict=True):
                face.pixels, face.scores = None, values
            yield from batch

    def _number_faces(self, seen: Sequence[Sighting]) -> None:
        """Give each face of a video the same number in all frames."""
        by_frame = [list(group) for _, group in groupby(seen, key=lambda sighting: sighting.row.frame)]
        boxes = [[sighting.row.box for sighting in group if sighting.row.box] for group in by_frame]
        for group, numbers in zip(by_frame, follow(boxes), strict=True):
            for sighting, number in zip((each for each in group if each.row.box), numbers, strict=True):
                sighting.row.face = number

    def _smooth(self, seen: Sequence[Sighting]) -> None:
        faces: dict[int | None, list[Sighting]] = {}
        for sighting in seen:
            if sighting.scores is not None:
                faces.setdefault(sighting.row.face, []).append(sighting)
        for face in faces.values():
            seconds = np.array([sighting.row.seconds for sighting in face])
            values = np.stack([sighting.scores for sighting in face if sighting.scores is not None])
            smoothed = smooth(values, seconds, self.options.smooth, self.options.smoothing)
            for sighting, scores in zip(face, smoothed, strict=True):
                sighting.scores = scores

    def _answer(self, sighting: Sighting) -> PredictionRow:
        row, values = sighting.row, sighting.scores
        if values is None:
            return row
        if self.labels:
            best = int(values[: len(self.labels)].argmax())
            row.confidence = round(float(values[best]), DIGITS)
            row.label = self.labels[best] if row.confidence >= self.options.min_confidence else UNCERTAIN
            row.scores = {label: round(float(p), DIGITS) for label, p in zip(self.labels, values, strict=False)}
            row.compound = likely_compound(row.scores) if self.options.compound else None
        if self.predictor.has_affect:
            row.valence, row.arousal = (round(float(value), DIGITS) for value in values[-2:])
        return row


def predict_files(reader: FileReader, paths: Sequence[str]) -> Iterator[list[PredictionRow]]:
    """The rows of each file in turn, computed in this process."""
    for start in range(0, len(paths), BATCH):
        yield from reader(paths[start : start + BATCH])


def find_files(paths: Sequence[str]) -> list[str]:
    """The files that paths, folders (searched with their sub-folders) and glob patterns mean, each once.

    In folders, files count by their suffix, and hidden ones are left out. A path that leads nowhere stays in the list,
    and gets a row that says so.
    """
    found: list[str] = []
    for path in paths:
        matches = [path] if Path(path).exists() else sorted(glob.glob(path, recursive=True)) or [path]
        for match in matches:
            found += _in_folder(Path(match)) if Path(match).is_dir() else [match]
    return list(dict.fromkeys(found))


def _in_folder(folder: Path) -> list[str]:
    files = sorted(path for path in folder.rglob("*") if not path.is_dir() and not path.name.startswith("."))
    wanted = [str(path) for path in files if is_image(str(path)) or is_video(path)]
    return wanted or [str(folder)]
