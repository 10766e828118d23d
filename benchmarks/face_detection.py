"""Face detection: what each detector finds in folders of images, with one look and with two, and how long it takes.

    python -m benchmarks.face_detection faces=FOLDER other=FOLDER … [--side 48] [--sample 1000]

Each folder is a row of the table. A cell has the share of images in which a face was found, the share in which the
whole image was taken as one, and the CPU time per image on one thread. Needs YuNet (`fer fetch yunet`).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fer.data.images import decode_rgb
from fer.errors import BadRow
from fer.faces.box import FaceBox
from fer.faces.detectors import (
    HAAR_SIDE,
    YUNET_SIDE,
    FaceDetector,
    HaarDetector,
    YuNetDetector,
    full_scale,
    open_detector,
)
from fer.faces.find import find_faces
from fer.faces.options import FaceOptions


class OneLook:
    """A detector without its second look: at the image's own size only, and never the whole image."""

    def __init__(self, detector: HaarDetector | YuNetDetector) -> None:
        self.detector = detector

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        side = HAAR_SIDE if isinstance(self.detector, HaarDetector) else YUNET_SIDE
        return self.detector.look(image, full_scale(image, side))

    def resembles_face(self, image: np.ndarray) -> bool:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--side", type=int, help="Resize the middle square of each image to this side, in pixels")
    parser.add_argument("--sample", type=int, default=1000, help="Images per folder, at most")
    options = parser.parse_args()

    haar, yunet = (open_detector(FaceOptions(detector=name)) for name in ("haar", "yunet"))
    assert isinstance(haar, HaarDetector)
    assert isinstance(yunet, YuNetDetector)
    detectors: dict[str, FaceDetector] = {
        "haar, one look": OneLook(haar), "haar": haar, "yunet, one look": OneLook(yunet), "yunet": yunet,
    }  # fmt: skip
    print("| images | number |", " | ".join(detectors), "|")
    print("|---|---|" + "---|" * len(detectors))
    for name, folder in (argument.split("=", 1) for argument in options.folders):
        images = [square(image, options.side) for image in read(Path(folder), options.sample)]
        cells = [measure(detector, images) for detector in detectors.values()]
        print(f"| {name} | {len(images)} |", " | ".join(cells), "|", flush=True)


def read(folder: Path, sample: int) -> list[np.ndarray]:
    """A seeded sample of the images of a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    random.Random(0).shuffle(files)
    images: list[np.ndarray] = []
    for file in files:
        try:
            images.append(decode_rgb(file.read_bytes()))
        except BadRow:
            continue  # no image
        if len(images) == sample:
            break
    return images


def square(image: np.ndarray, side: int | None) -> np.ndarray:
    if side is None:
        return image
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    return cv2.resize(image[top : top + edge, left : left + edge], (side, side), interpolation=cv2.INTER_AREA)


def measure(detector: FaceDetector, images: Sequence[np.ndarray]) -> str:
    started = time.process_time()
    found = [find_faces(image, detector) for image in images]
    seconds = time.process_time() - started
    whole = sum(any(box.whole_image for box in boxes) for boxes in found)
    faces = sum(bool(boxes) for boxes in found) - whole
    return f"{faces / len(images):.1%} + {whole / len(images):.1%}, {1000 * seconds / len(images):.1f} ms"


if __name__ == "__main__":
    main()
