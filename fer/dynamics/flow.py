"""Optical flow between two aligned faces, and its encoding as a colour image.

A flow field is float32 (H, W, 2): how far each point of the first image moves to the right and down, as a fraction of
the image's side. In the flow image, hue is direction (as in OpenCV: 0 is red, to the right, then clockwise) and
brightness is distance. All images have the same scale, since one per image would not show how far a face moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fer.errors import UserError

if TYPE_CHECKING:
    from torch import nn

SIDE = 112
"""Side of a flow image, in pixels."""
MAX_DISTANCE = 0.1
"""The distance, as a fraction of the side, that has full brightness; longer ones are clipped."""

FlowEstimator = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps two RGB uint8 images (S, S, 3) to the flow (S, S, 2) from the first to the second."""


def to_image(flow: np.ndarray) -> np.ndarray:
    """Encode a flow field (H, W, 2) as an RGB uint8 image (H, W, 3)."""
    distance, angle = cv2.cartToPolar(np.ascontiguousarray(flow[..., 0]), np.ascontiguousarray(flow[..., 1]))
    hue = np.round(angle * (90 / np.pi)) % 180  # OpenCV's hue: two degrees per step
    value = np.round(np.minimum(distance / MAX_DISTANCE, 1) * 255)
    image = np.stack([hue, np.full_like(hue, 255), value], axis=-1).astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_HSV2RGB)


def from_image(image: np.ndarray) -> np.ndarray:
    """Decode the flow field (H, W, 2) of an RGB uint8 flow image."""
    hue, _, value = np.moveaxis(cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32), -1, 0)
    right, down = cv2.polarToCart(value * (MAX_DISTANCE / 255), hue * np.float32(np.pi / 90))
    return np.stack([right, down], axis=-1)


def encode_jpeg(image: np.ndarray) -> bytes:
    """An RGB image as a JPEG without chroma subsampling, since hue encodes direction."""
    settings = [
        cv2.IMWRITE_JPEG_QUALITY, 95,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # fmt: skip
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    assert encoded, "uint8 images can always be encoded"
    return data.tobytes()


def resize(flow: np.ndarray) -> np.ndarray:
    """A flow field of any size as (SIDE, SIDE, 2). Its values, fractions of the side, do not change."""
    return cv2.resize(flow, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def build_flow_estimator(name: str) -> FlowEstimator:
    """`dis` or `raft`. Raises UserError if RAFT's weights can't be downloaded."""
    return DISFlow() if name == "dis" else RAFTFlow(_raft_network())


class DISFlow:
    """Dense inverse search (Kroeger et al., ECCV 2016) from OpenCV: a few milliseconds per frame on a CPU."""

    def __init__(self) -> None:
        self.method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        before, after = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second))
        return self.method.calc(before, after, np.zeros((*before.shape, 2), np.float32)) / len(first)


class RAFTFlow:
    """RAFT (Teed and Deng, ECCV 2020), small, from torchvision: more accurate, about a second per frame on a CPU."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        import torch

        pair = [torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] for image in (first, second)]
        with torch.inference_mode():
            flow = self.network(*(image / 127.5 - 1 for image in pair))[-1]
        return flow[0].permute(1, 2, 0).numpy() / len(first)


def _raft_network() -> nn.Module:
    from torchvision.models.optical_flow import Raft_Small_Weights, raft_small

    try:
        return raft_small(weights=Raft_Small_Weights.DEFAULT, progress=False)
    except OSError as error:
        raise UserError(
            f"--flow raft: can't download torchvision's weights ({error}); copy them to torch's cache from a machine "
            "with a network, or use --flow dis"
        ) from None
