"""The second objective: how large a network is, and how long it takes."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

WARM_UP, TIMED = 5, 30


def millions_of_weights(network: nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


@torch.inference_mode()
def latency_ms(network: nn.Module, example: tuple[Tensor, ...]) -> float:
    """Median milliseconds of a forward pass of one row, where trials train: on the GPU if they have one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, inputs = network.eval().to(device), [each.to(device) for each in example]
    times = []
    for _ in range(WARM_UP + TIMED):
        began = time.perf_counter()
        network(*inputs)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[WARM_UP:]) * 1000
