"""Optical flow between two aligned faces, and the colour picture that it is kept as.

A flow is float32 (H, W, 2): how far each point of the first picture moves to the right and down, as shares of the
picture's side. In the picture the hue is the direction (OpenCV's: 0 red to the right, turning clockwise) and the
brightness the distance, on one scale for all pictures: a picture of its own scale could not say how far a face moves.
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
"""Pixels of a flow picture's side."""
FULL = 0.1
"""The distance, as a share of the side, that is drawn at full brightness; longer ones look the same."""

FlowMethod = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From two RGB uint8 pictures (S, S, 3) to the flow (S, S, 2) from the first to the second."""


def draw(flow: np.ndarray) -> np.ndarray:
    """A flow (H, W, 2) as an RGB uint8 picture (H, W, 3)."""
    distance, angle = cv2.cartToPolar(np.ascontiguousarray(flow[..., 0]), np.ascontiguousarray(flow[..., 1]))
    hue = np.round(angle * (90 / np.pi)) % 180  # two degrees a step
    value = np.round(np.minimum(distance / FULL, 1) * 255)
    picture = np.stack([hue, np.full_like(hue, 255), value], axis=-1).astype(np.uint8)
    return cv2.cvtColor(picture, cv2.COLOR_HSV2RGB)


def read(picture: np.ndarray) -> np.ndarray:
    """The flow (H, W, 2) that an RGB uint8 picture (H, W, 3) shows."""
    hue, _, value = np.moveaxis(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(np.float32), -1, 0)
    across, down = cv2.polarToCart(value * (FULL / 255), hue * np.float32(np.pi / 90))
    return np.stack([across, down], axis=-1)


def encode(picture: np.ndarray) -> bytes:
    """An RGB picture to a JPEG that keeps colour at full resolution: the hue is a direction."""
    settings = [
        cv2.IMWRITE_JPEG_QUALITY, 95,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # fmt: skip
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), settings)
    assert done, "a uint8 picture always encodes"
    return data.tobytes()


def shrink(flow: np.ndarray) -> np.ndarray:
    """A flow of any size to (SIDE, SIDE, 2); shares of the side stay what they are."""
    return cv2.resize(flow, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def open_method(name: str) -> FlowMethod:
    """`dis` or `raft`. Raises UserError if RAFT's weights can't be had."""
    return Dis() if name == "dis" else Raft(_raft_network())


class Dis:
    """Dense inverse search (Kroeger et al., ECCV 2016), from OpenCV: a few milliseconds on a CPU."""

    def __init__(self) -> None:
        self.method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        before, after = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (first, second))
        return self.method.calc(before, after, np.zeros((*before.shape, 2), np.float32)) / len(first)


class Raft:
    """RAFT (Teed and Deng, ECCV 2020), small, from torchvision: finer, about a second a frame on a CPU."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        import torch

        pair = [torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None] for picture in (first, second)]
        with torch.inference_mode():
            flow = self.network(*(picture / 127.5 - 1 for picture in pair))[-1]
        return flow[0].permute(1, 2, 0).numpy() / len(first)


def _raft_network() -> nn.Module:
    from torchvision.models.optical_flow import Raft_Small_Weights, raft_small

    try:
        return raft_small(weights=Raft_Small_Weights.DEFAULT, progress=False)
    except OSError as error:
        raise UserError(
            f"--flow raft: torchvision's weights could not be fetched ({error}); put them into torch's cache on a "
            "machine with a network, or use --flow dis"
        ) from None
