"""Preprocessing of decoded images, shared by training, evaluation, prediction and serving."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from fer.classifier.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """RGB (H, W, 3) uint8 to grey (H, W) for a network with one input channel; otherwise unchanged."""
    return image if channels == 3 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """Pixels (H, W[, C]) to (side, side[, C]): area averaging when shrinking, bilinear when enlarging."""
    shrinking = max(image.shape[:2]) > side
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


def to_input(image: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """RGB (H, W, 3) uint8 of any size to the network's (side, side, C) uint8."""
    pixels = resize(to_channels(image, spec.options.in_chans), spec.options.img_size)
    return pixels.reshape(*pixels.shape[:2], spec.options.in_chans)


def normalize(pixels: Tensor, spec: ModelSpec) -> Tensor:
    """Batch (N, H, W, C) uint8 to normalised (N, C, H, W) float32 in channels-last memory."""
    values = pixels.float()
    mean, std = values.new_tensor(spec.mean) * 255, values.new_tensor(spec.std) * 255
    return ((values - mean) / std).permute(0, 3, 1, 2)
