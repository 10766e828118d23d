"""Encoded images to pixels: a header check that decodes nothing, and a single decode."""

from __future__ import annotations

import io
import warnings
from os.path import splitext

import cv2
import numpy as np
from PIL import Image

from fer.errors import BadRow

MAX_PIXELS = 64_000_000
MAX_BYTES = 64 * 2**20
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that both Pillow and OpenCV read. Pillow's others stay disabled: for EPS it would start Ghostscript."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".gif"}
JPEG_START = b"\xff\xd8"

DECODE_FLAGS = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""OpenCV's flags for each divisor of the size. It has no names for reduced RGB images; they are not grey."""

cv2.setNumThreads(1)  # one thread per image: images are decoded in parallel instead
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # a damaged image is reported as a BadRow
Image.MAX_IMAGE_PIXELS = None  # `check_header` has its own limit


def is_image(path: str) -> bool:
    """Whether a file has the suffix of an image."""
    return splitext(path)[1].lower() in SUFFIXES


def check_header(data: bytes, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> tuple[int, int]:
    """Width and height in pixels, from the header alone: no pixel is decoded.

    Raises BadRow for an empty file, one of more than ``max_bytes``, one that is not an image of a supported format, and
    an image of more than ``max_pixels``, such as a decompression bomb.
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
    except Exception:  # malformed headers raise anything, RuntimeError and KeyError included
        raise BadRow("not an image of a supported format") from None
    if width * height > max_pixels:
        raise BadRow(f"{width}x{height} pixels, more than {max_pixels}")
    return width, height


def decode_rgb(data: bytes, divisor: int = 1) -> np.ndarray:
    """Decode to RGB uint8 (height, width, 3), rotated according to the EXIF orientation.

    ``divisor``, one of 1, 2, 4 and 8, is that of the size: libjpeg decodes a small image faster than a large one.
    There is no size limit: use `decode_untrusted` for images that were not checked before. Raises BadRow for an image
    that is truncated or damaged.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), DECODE_FLAGS[divisor]) if data else None
    except cv2.error:  # OpenCV returns None for most damaged files, but raises for some
        pixels = None
    if pixels is None:
        raise BadRow("truncated or damaged image")
    return pixels


def decode_untrusted(data: bytes, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """Check the header, then decode once, as `decode_rgb` does. Raises BadRow as both do."""
    check_header(data, max_pixels, max_bytes)
    return decode_rgb(data)


def jpeg_divisor(data: bytes, size: tuple[int, int], least: int) -> int:
    """The largest divisor for `decode_rgb` that leaves both sides of the image at least ``least`` pixels.

    1 for other formats than JPEG: their decoders read the whole image first.
    """
    if not data.startswith(JPEG_START):
        return 1
    return max(divisor for divisor in DECODE_FLAGS if divisor == 1 or min(size) >= divisor * least)


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """Encode RGB (H, W, 3) uint8 pixels as JPEG of quality 95."""
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert encoded, "a uint8 array always encodes"
    return data.tobytes()


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode grey (H, W) or RGB (H, W, 3) uint8 pixels as PNG."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    encoded, data = cv2.imencode(".png", pixels)
    assert encoded, "a uint8 array always encodes"
    return data.tobytes()


def encode_like(pixels: np.ndarray, original: bytes) -> bytes:
    """Encode RGB (H, W, 3) uint8 pixels: as JPEG of quality 95 if they are part of a JPEG, else losslessly as PNG."""
    if not original.startswith(JPEG_START):
        return encode_png(pixels)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)
    assert encoded, "a uint8 array always encodes"
    return data.tobytes()
