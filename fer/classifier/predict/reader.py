"""Reading face crops from image and video files."""

from __future__ import annotations

import glob
import posixpath
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

import numpy as np

from fer.classifier.predict.options import PredictConfig
from fer.classifier.predict.rows import NO_FACE, PredictionRow
from fer.data.file_list import list_files, printable, walk
from fer.data.filesystem import read_limited
from fer.data.images import MAX_BYTES, decode_untrusted, is_image
from fer.data.video import count_frames, is_video, show_progress, video_frames
from fer.errors import BadRow, UserError
from fer.faces.box import FaceBox, crop
from fer.faces.detectors import open_detector
from fer.faces.find import find_faces
from fer.storage import check_access, get_filesystem, is_uri, local_file

DETECTION_DIGITS = 5
THREADS = 4
READ_AHEAD = 2 * THREADS
"""Images in which faces are looked for ahead of the one that is used."""

ESCAPED = "\\udc"
"""In what `printable` makes of a path that is not UTF-8."""
NOT_UTF8 = "file name that is not UTF-8: rename the file"

Pixels = np.ndarray | str
"""RGB (H, W, 3) uint8, or the error message of an image that can't be read."""
Found = list[FaceBox] | str
"""The faces of an image, or why none can be found."""
Image = tuple[PredictionRow, Pixels]


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
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="read")

    def crop_images(self, images: Iterable[tuple[str, Pixels]]) -> Iterator[FaceCrop]:
        """The faces of each image in turn, at least one item per image.

        Images come with their path, and are RGB (H, W, 3) uint8, or the error message of an image without pixels.
        """
        rows = ((PredictionRow(path=path), pixels) for path, pixels in images)
        for row, pixels, boxes in self._find_faces(rows):
            yield from self._crop_faces(row, pixels, boxes)

    def read_video(self, path: str) -> Iterator[FaceCrop]:
        """The faces of each frame in turn, at least one item per frame that is read."""
        for row, pixels, boxes in self._find_faces(self._read_frames(path)):
            yield from self._crop_faces(row, pixels, boxes)

    def load_images(self, paths: Sequence[str]) -> Iterator[tuple[str, Pixels]]:
        """Each path with its image, loaded on several threads."""
        return zip(paths, self.threads.map(self.load_image, paths), strict=True)

    def load_image(self, path: str) -> Pixels:
        """RGB (H, W, 3) uint8, or an error message."""
        file = self.base / path
        try:
            if is_uri(path):
                return decode_untrusted(read_limited(*get_filesystem(path)))
            if file.is_dir():
                raise BadRow("no image or video in this folder")
            with file.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
            return decode_untrusted(data)
        except BadRow as error:
            return str(error)
        except OSError as error:
            return NOT_UTF8 if ESCAPED in path else (error.strerror or str(error)).lower()

    def _read_frames(self, path: str) -> Iterator[Image]:
        stride = self.options.frame_stride
        try:
            with self.local_video(path) as file:
                frames = show_progress(video_frames(file, stride), f"reading {file.name}", count_frames(file, stride))
                for frame, seconds, pixels in frames:
                    yield PredictionRow(path=path, frame=frame, seconds=round(seconds, 3)), pixels
        except UserError as error:
            yield PredictionRow(path=path), str(error)

    def local_video(self, path: str) -> AbstractContextManager[Path]:
        """The file of a video: during the block, a copy of one at a URI."""
        return local_file(path if is_uri(path) else str(self.base / path))

    def _find_faces(self, images: Iterable[Image]) -> Iterator[tuple[PredictionRow, Pixels, Found]]:
        """Each image with what `_find` returns, in order; several threads look ahead."""
        pending: deque[tuple[PredictionRow, Pixels, Future[Found]]] = deque()
        for row, pixels in images:
            pending.append((row, pixels, self.threads.submit(self._find, pixels)))
            if len(pending) > READ_AHEAD:
                yield _wait(*pending.popleft())
        yield from (_wait(*image) for image in pending)

    def _find(self, pixels: Pixels) -> Found:
        """The faces of an image, or an error message; that of an image without pixels is passed on."""
        try:
            return pixels if isinstance(pixels, str) else find_faces(pixels, self.detector)
        except BadRow as error:
            return str(error)

    def _crop_faces(self, row: PredictionRow, image: Pixels, boxes: Found) -> Iterator[FaceCrop]:
        """The faces of an image, or an item with the reason why there is none."""
        if isinstance(image, str) or isinstance(boxes, str):
            yield FaceCrop(row.model_copy(update={"error": boxes}))
            return
        if not boxes:
            yield FaceCrop(row.model_copy(update={"error": NO_FACE}))
        for number, box in enumerate(boxes):
            position = (round(box.x, 1), round(box.y, 1), round(box.width, 1), round(box.height, 1))
            score = None if box.score is None else round(box.score, DETECTION_DIGITS)
            update = {"face": number, "box": position, "face_score": score, "whole_image": box.whole_image}
            pixels = crop(image, box, self.options.margin, self.options.align)
            yield FaceCrop(row.model_copy(update=update), pixels)


def _wait(row: PredictionRow, pixels: Pixels, found: Future[Found]) -> tuple[PredictionRow, Pixels, Found]:
    return row, pixels, found.result()


def find_files(paths: Sequence[str]) -> list[str]:
    """Expand paths and URIs, folders (recursively) and glob patterns to a list of files without duplicates.

    In folders, images and videos are recognised by their suffix, and hidden files are skipped. A path without a match
    stays in the list, and gets a row with an error; so does one that is not UTF-8, which no output could name.
    """
    files: list[str] = []
    for path in paths:
        if is_uri(path):
            files += _list_uri(path)
            continue
        matches = [path] if Path(path).exists() else sorted(glob.glob(path, recursive=True)) or [path]
        for match in matches:
            files += _list_folder(Path(match)) if Path(match).is_dir() else [match]
    return list(dict.fromkeys(map(printable, files)))


def _list_uri(location: str) -> list[str]:
    fs, root = get_filesystem(location)
    check_access(location)
    if has_magic(root):
        return [fs.unstrip_protocol(path) for path in sorted(fs.glob(root))] or [location]
    if fs.isfile(root):
        return [location]
    names = sorted(name for name, _ in list_files(fs, root) if not posixpath.basename(name).startswith("."))
    files = [f"{location.rstrip('/')}/{name}" for name in names if is_image(name) or is_video(Path(name))]
    return files or [location]


def _list_folder(folder: Path) -> list[str]:
    files = sorted(path for path in map(Path, walk(str(folder))) if not path.name.startswith("."))
    return [str(path) for path in files if is_image(str(path)) or is_video(path)] or [str(folder)]
