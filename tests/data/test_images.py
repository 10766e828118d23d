"""Decoding: limits before any pixel is decoded, damaged files, orientation, and one decode per image."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from fer.data.images import FORMATS, check_header, decode_rgb, decode_untrusted, encode_png, jpeg_divisor
from fer.data.stream.prefetch import read_verified
from fer.errors import BadRow

WIDTH, HEIGHT = 60, 40
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def encoded(image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, image_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_is_decoded_once_to_rgb(image_format: str, count_decodes: Callable[[], int]) -> None:
    data = encoded(image_format)
    assert check_header(data) == (WIDTH, HEIGHT)
    assert count_decodes() == 0
    pixels = decode_untrusted(data)
    assert count_decodes() == 1
    assert (pixels.shape, pixels.dtype) == (PIXELS.shape, np.uint8)
    if image_format in ("PNG", "BMP", "TIFF", "PPM"):
        assert (pixels == PIXELS).all()


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        *((image_format, {}) for image_format in FORMATS),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"restart_marker_rows": 1}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
    ],
)
def test_a_truncated_image_is_rejected_wherever_it_ends(image_format: str, options: dict[str, object]) -> None:
    data = encoded(image_format, **options)
    for end in {1, *range(0, len(data), max(1, len(data) // 50)), len(data) - 200, len(data) - 20} - {0}:
        with pytest.raises(BadRow):
            decode_untrusted(data[:end])


def test_the_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise for display
    data = encoded("JPEG", exif=exif, quality=100, subsampling=0)
    assert check_header(data) == (WIDTH, HEIGHT)
    upright = np.rot90(PIXELS, -1)
    assert np.abs(decode_rgb(data).astype(int) - upright).mean() < 3


@pytest.mark.parametrize(
    ("data", "limits", "reason"),
    [
        (b"", {}, "empty file"),
        (b"<html>", {}, "not an image of a supported format"),
        (encoded("TGA"), {}, "not an image of a supported format"),
        (encode_png(PIXELS), {"max_pixels": WIDTH * HEIGHT - 1}, "60x40 pixels, more than 2399"),
        (encode_png(PIXELS), {"max_bytes": 1000}, r"file of \d+ bytes, more than 1000"),
    ],
)
def test_limits_hold_before_a_pixel_is_decoded(
    data: bytes, limits: dict[str, int], reason: str, count_decodes: Callable[[], int]
) -> None:
    with pytest.raises(BadRow, match=reason):
        decode_untrusted(data, **limits)
    assert count_decodes() == 0


def test_a_decompression_bomb_is_not_decoded(decompression_bomb: bytes, count_decodes: Callable[[], int]) -> None:
    with pytest.raises(BadRow, match="60000x60000 pixels, more than 64000000"):
        decode_untrusted(decompression_bomb)
    assert count_decodes() == 0


def test_a_header_with_a_wrong_size_is_rejected() -> None:
    data = encoded("JPEG2000")
    place = data.index(b"ihdr") + 4
    with pytest.raises(BadRow, match="damaged"):
        decode_untrusted(data[:place] + struct.pack(">II", 8, 8) + data[place + 8 :])


def test_verifying_an_image_decodes_it_once(count_decodes: Callable[[], int]) -> None:
    assert read_verified(lambda: encode_png(PIXELS)) == encode_png(PIXELS)
    assert count_decodes() == 1


@pytest.mark.parametrize(
    ("size", "least", "divisor"), [((350, 350), 160, 2), ((350, 300), 160, 1), ((4000, 3000), 160, 8), ((96, 96), 1, 8)]
)
def test_a_jpeg_is_decoded_smaller_but_not_below_the_least_side(
    size: tuple[int, int], least: int, divisor: int
) -> None:
    image = Image.linear_gradient("L").resize(size)
    file = io.BytesIO()
    image.save(file, "JPEG")
    assert jpeg_divisor(file.getvalue(), size, least) == divisor
    small = decode_rgb(file.getvalue(), divisor)
    assert small.shape == (-(-size[1] // divisor), -(-size[0] // divisor), 3)
    assert np.abs(small.mean() - np.asarray(image).mean()) < 2
    assert jpeg_divisor(encode_png(np.asarray(image)), size, least) == 1
