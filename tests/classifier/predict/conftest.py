"""Image and video files for prediction."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fer.data.images import encode_png


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images that can be read, two that can't, and a file of another kind."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.PNG", "sub/d.png"):
        (folder / name).write_bytes(encode_png(rng.integers(0, 256, (40, 36, 3), np.uint8)))
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A second of noise in twelve frames."""
    path = tmp_path / "noise.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, (64, 48))
    rng = np.random.default_rng(1)
    for _ in range(12):
        writer.write(np.kron(rng.integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8)))
    writer.release()
    return path
