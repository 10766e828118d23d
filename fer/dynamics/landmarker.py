"""MediaPipe's Face Landmarker: the 146 landmarks of the most visible face in an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer.data.landmarks import INDICES
from fer.downloads import cache_folder
from fer.errors import UserError

BUNDLE_PATTERN = "face_landmarker*.task"
_HOW_TO_GET = (
    "download face_landmarker.task (or face_landmarker_v2_with_blendshapes.task) from MediaPipe's Face Landmarker page "
    "and give its path with --landmarker"
)


def open_landmarker(file: str | None) -> Landmarker:
    """Open a Face Landmarker bundle; None: the newest one in the cache folder. Raises UserError if there is none."""
    path = Path(file) if file else _newest_bundle()
    if not path.is_file():
        raise UserError(f"no landmarker at {path}: {_HOW_TO_GET}")
    return Landmarker(path)


class Landmarker:
    """Detects landmarks in images. Not thread-safe; a context manager."""

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
                f"{file} is not a Face Landmarker bundle ({str(error).splitlines()[0]}): {_HOW_TO_GET}"
            ) from None

    def __call__(self, image: np.ndarray) -> np.ndarray | None:
        """Landmarks of an RGB image: pixels (146, 2), float32, ordered as in `fer.data.landmarks`; None without a face.

        Images are processed independently: tracking would smooth out the small movements that are scored.
        """
        import mediapipe

        mp_image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))
        faces = self.task.detect(mp_image).face_landmarks
        if not faces:
            return None
        height, width = image.shape[:2]
        points = np.array([(point.x * width, point.y * height) for point in faces[0]], np.float32)
        return points[INDICES] - 0.5  # MediaPipe's origin is the image's corner, ours the centre of the first pixel

    def __enter__(self) -> Landmarker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.task.close()


def _newest_bundle() -> Path:
    files = sorted(cache_folder().glob(BUNDLE_PATTERN))
    if not files:
        raise UserError(f"no {BUNDLE_PATTERN} in {cache_folder()}: {_HOW_TO_GET}")
    return files[-1]
