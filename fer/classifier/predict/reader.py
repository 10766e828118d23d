"""Reading face crops from image and video files."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer.classifier.predict.options import PredictConfig
from fer.classifier.predict.rows import NO_FACE, PredictionRow
from fer.data.images import MAX_BYTES, decode_untrusted, is_image
from fer.data.video import count_frames, is_video, show_progress, video_frames
from fer.errors import BadRow, UserError
from fer.faces.box import crop
from fer.faces.detectors import open_detector
from fer.faces.find import find_faces

DETECTION_DIGITS = 5


@dataclass
class FaceCrop:
    """A face and its row; or a row with an error, without pixels."""

    row: PredictionRow
    pixels: np.ndarray | None = None
    """RGB (H, W, 3) uint8; None for an error and after inference."""
    outputs: np.ndarray | None = None
    """Probabilities (classes,) and valence-arousal (2,) as the model has them, concatenated; None before inference."""


class FaceReader:
    """Reads the faces of images and videos; relative paths start at ``base``.

    Raises UserError if the detector can't be loaded.
    """

    def __init__(self, options: PredictConfig, base: Path) -> None:
        self.options, self.base = options, base
        self.detector = open_detector(options)
        self.threads = ThreadPoolExecutor(4, thread_name_prefix="read")

    def crop_images(self, images: Iterable[tuple[str, np.ndarray | str]]) -> Iterator[FaceCrop]:
        """The faces of each image in turn, at least one item per image.

        Images come with their path, and are RGB (H, W, 3) uint8, or the error message of an image without pixels.
        """
        for path, pixels in images:
            if isinstance(pixels, str):
                yield FaceCrop(PredictionRow(path=path, error=pixels))
            else:
                yield from self._crop_faces(PredictionRow(path=path), pixels)

    def read_video(self, path: str) -> Iterator[FaceCrop]:
        """The faces of each frame in turn, at least one item per frame that is read."""
        try:
            file, stride = self.base / path, self.options.frame_stride
            frames = show_progress(video_frames(file, stride), f"reading {file.name}", count_frames(file, stride))
            for frame, seconds, pixels in frames:
                yield from self._crop_faces(PredictionRow(path=path, frame=frame, seconds=round(seconds, 3)), pixels)
        except UserError as error:
            yield FaceCrop(PredictionRow(path=path, error=str(error)))

    def load_images(self, paths: Sequence[str]) -> Iterator[tuple[str, np.ndarray | str]]:
        """Each path with its image, loaded on several threads."""
        return zip(paths, self.threads.map(self.load_image, paths), strict=True)

    def load_image(self, path: str) -> np.ndarray | str:
        """RGB (H, W, 3) uint8, or an error message."""
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

    def _crop_faces(self, row: PredictionRow, image: np.ndarray) -> Iterator[FaceCrop]:
        """The faces of an image, or an item with the reason why there is none."""
        try:
            boxes = find_faces(image, self.detector)
        except BadRow as error:
            yield FaceCrop(row.model_copy(update={"error": str(error)}))
            return
        if not boxes:
            yield FaceCrop(row.model_copy(update={"error": NO_FACE}))
        for number, box in enumerate(boxes):
            position = (round(box.x, 1), round(box.y, 1), round(box.width, 1), round(box.height, 1))
            score = None if box.score is None else round(box.score, DETECTION_DIGITS)
            update = {"face": number, "box": position, "face_score": score, "whole_image": box.whole_image}
            yield FaceCrop(row.model_copy(update=update), crop(image, box, self.options.margin))


def find_files(paths: Sequence[str]) -> list[str]:
    """Expand paths, folders (recursively) and glob patterns to a list of files without duplicates.

    In folders, images and videos are recognised by their suffix, and hidden files are skipped. A path without a match
    stays in the list, and gets a row with an error.
    """
    files: list[str] = []
    for path in paths:
        matches = [path] if Path(path).exists() else sorted(glob.glob(path, recursive=True)) or [path]
        for match in matches:
            files += _list_folder(Path(match)) if Path(match).is_dir() else [match]
    return list(dict.fromkeys(files))


def _list_folder(folder: Path) -> list[str]:
    files = sorted(path for path in folder.rglob("*") if not path.is_dir() and not path.name.startswith("."))
    return [str(path) for path in files if is_image(str(path)) or is_video(path)] or [str(folder)]
