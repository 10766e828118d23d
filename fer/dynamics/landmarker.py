"""MediaPipe's Face Landmarker: from a picture to the 146 landmarks of its most visible face."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer.data.landmarks import INDICES
from fer.errors import UserError
from fer.faces import cache_folder

FILES = "face_landmarker*.task"
_HOW_TO_GET = (
    "get face_landmarker.task (or face_landmarker_v2_with_blendshapes.task) from MediaPipe's Face Landmarker page and "
    "name it with --landmarker"
)


def open_landmarker(file: str | None) -> Landmarker:
    """The landmarker of a bundle, or of the newest one in the cache. Raises UserError that says what is missing."""
    path = Path(file) if file else _newest()
    if not path.is_file():
        raise UserError(f"no landmarker at {path}: {_HOW_TO_GET}")
    return Landmarker(path)


class Landmarker:
    """Finds landmarks in the pictures of one video after the other; use it from one thread, as a context manager."""

    def __init__(self, file: Path) -> None:
        try:
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError as error:
            raise UserError(
                f"videos need MediaPipe, which is not installed ({error}): install the extra `landmarks`"
            ) from None
        options = vision.FaceLandmarkerOptions(base_options=BaseOptions(model_asset_path=str(file)), num_faces=1)
        try:
            self.task = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{file} is no Face Landmarker bundle ({str(error).splitlines()[0]}): {_HOW_TO_GET}"
            ) from None

    def __call__(self, image: np.ndarray) -> np.ndarray | None:
        """Pixels (146, 2), float32, in the order of `fer.data.landmarks`, in an RGB picture; None without a face.

        Each picture is looked at by itself: tracking would smooth away the small movements that are scored.
        """
        import mediapipe

        picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))
        faces = self.task.detect(picture).face_landmarks
        if not faces:
            return None
        height, width = image.shape[:2]
        points = np.array([(point.x * width, point.y * height) for point in faces[0]], np.float32)
        return points[INDICES] - 0.5  # MediaPipe counts from the picture's corner, we from the first pixel's centre

    def __enter__(self) -> Landmarker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.task.close()


def _newest() -> Path:
    files = sorted(cache_folder().glob(FILES))
    if not files:
        raise UserError(f"no {FILES} in {cache_folder()}: {_HOW_TO_GET}")
    return files[-1]
