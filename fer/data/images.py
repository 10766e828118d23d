"""From encoded bytes to pixels: a strict check for data that is new, and a fast decode for data that was checked."""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
from PIL import Image

from fer.errors import BadRow

MAX_PIXELS = 64_000_000
MAX_BYTES = 64 * 2**20
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What both Pillow and OpenCV read. Pillow's other formats stay shut: for EPS it would start Ghostscript."""

# One image is decoded by one thread: parallelism comes from decoding many images at once.
cv2.setNumThreads(1)
Image.MAX_IMAGE_PIXELS = None  # we look at the header ourselves, with our own limit


def check_image(data: bytes, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> tuple[int, int]:
    """Decode an image fully and strictly; return (width, height) in pixels.

    Raises BadRow for an empty or oversized file, something that is not an image, a truncated image, or one whose header
    announces more than ``max_pixels`` (a decompression bomb: refused before a pixel is decoded).
    """
    if not data:
        raise BadRow("empty file")
    if len(data) > max_bytes:
        raise BadRow(f"file of {len(data)} bytes, more than {max_bytes}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise BadRow(f"{width}x{height} pixels, more than {max_pixels}")
                image.load()
    except BadRow:
        raise
    except Exception as error:  # decoders meet hostile bytes with whatever they please, RuntimeError and KeyError too
        reason = "truncated image" if "truncated" in str(error) else "not an image that can be decoded"
        raise BadRow(reason) from None
    return width, height


def decode_rgb(data: bytes) -> np.ndarray:
    """Encoded image to RGB, uint8, (height, width, 3), turned upright by its EXIF orientation. Raises BadRow."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    except cv2.error:  # OpenCV returns None for most damaged files, but raises for some
        pixels = None
    if pixels is None:
        raise BadRow("not an image that can be decoded")
    return pixels


def encode_png(pixels: np.ndarray) -> bytes:
    """Grey (H, W) or RGB (H, W, 3) uint8 pixels to a PNG file's bytes."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", pixels)
    assert done, "a uint8 array always encodes"
    return data.tobytes()
