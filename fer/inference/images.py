"""The image of a request as vision-language models get it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def encode_for_model(pixels: np.ndarray, side: int) -> bytes:
    """RGB pixels (H, W, 3) as a PNG of ``side`` x ``side`` pixels; 0 keeps their size.

    Bicubic, like qwen-vl-utils in UniFER's inference script.
    """
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image.resize((side, side), Image.Resampling.BICUBIC) if side else image).save(file, "PNG")
    return file.getvalue()
