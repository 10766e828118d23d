"""The images of requests."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fer.inference.images import encode_for_model


@pytest.mark.parametrize("side", [0, 24])
def test_files_for_engines_and_for_endpoints_have_the_same_pixels(side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    image, sent = (
        Image.open(io.BytesIO(encode_for_model(pixels, side, compress=compress))) for compress in (False, True)
    )
    assert (image.format, sent.format) == ("BMP", "PNG")
    assert image.size == ((side, side) if side else (30, 40))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(sent))
    if not side:
        np.testing.assert_array_equal(np.asarray(image), pixels)
