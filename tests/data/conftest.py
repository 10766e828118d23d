"""Small synthetic data sets in the published layouts."""

from __future__ import annotations

import csv
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer.data.options import PrepareOptions

WriteImages = Callable[..., Path]
WriteCsv = Callable[..., Path]


def encoded(seed: int, side: int = 24, suffix: str = ".jpg") -> bytes:
    """An encoded image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.fixture
def write_images(tmp_path: Path) -> WriteImages:
    """write(paths, root="data"): write images of noise at relative paths in a folder, which is returned."""

    def write(*paths: str, root: str = "data") -> Path:
        for seed, path in enumerate(paths):
            target = tmp_path / root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(encoded(seed, suffix=target.suffix))
        return tmp_path / root

    return write


@pytest.fixture
def decompression_bomb() -> bytes:
    """A small PNG whose header announces 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def faces(write_images: WriteImages) -> Path:
    """One folder of classes: 20 happy, 20 sad, 10 fear."""
    counts = {"happy": 20, "sad": 20, "fear": 10}
    return write_images(*(f"{name}/{i:02d}.png" for name, count in counts.items() for i in range(count)))


@pytest.fixture
def prepare_options(tmp_path: Path) -> Callable[..., PrepareOptions]:
    """prepare_options(data, **options): options that prepare ``data`` into ``shards`` in the test's folder."""
    return lambda data, **options: PrepareOptions(**{"data": str(data), "out": str(tmp_path / "shards")} | options)


@pytest.fixture
def zipped() -> Callable[..., Path]:
    """zipped(folder, inside=""): zip the folder into a file beside it, with ``inside`` prefixed to its paths."""

    def write(folder: Path, inside: str = "") -> Path:
        archive = folder.with_suffix(".zip")
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    file.write(path, inside + path.relative_to(folder).as_posix())
        return archive

    return write


@pytest.fixture
def write_csv() -> WriteCsv:
    """write_csv(path, *rows): write a table; returns the path."""

    def write(path: Path, *rows: Sequence[object]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        return path

    return write


@pytest.fixture
def pixels() -> Callable[[int], str]:
    """pixels(seed): 2,304 grey values as FER2013 writes them."""
    return lambda seed: " ".join(map(str, np.random.default_rng(seed).integers(0, 256, 48 * 48)))


@pytest.fixture
def fer2013_csv(tmp_path: Path, write_csv: WriteCsv, pixels: Callable[[int], str]) -> Path:
    """FER2013's CSV: three valid lines, one per split, then four bad ones."""
    return write_csv(
        tmp_path / "data/fer2013.csv",
        ("emotion", "pixels", "Usage"),
        (0, pixels(0), "Training"),
        (6, pixels(1), "PublicTest"),
        (3, pixels(2), "PrivateTest"),
        (9, pixels(3), "Training"),
        (3, "1 2 3", "Training"),
        (3, pixels(5), "Elsewhere"),
        (3, pixels(6).replace(" ", " x", 1), "Training"),
    )
