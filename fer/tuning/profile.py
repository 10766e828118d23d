"""The cost of a network, for `--second-objective`: its size and its latency."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

WARMUP_RUNS, TIMED_RUNS = 5, 30


def million_parameters(network: nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


@torch.inference_mode()
def latency_ms(network: nn.Module, example: tuple[Tensor, ...]) -> float:
    """Median milliseconds of a forward pass of one row, on the GPU if the trial has one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, inputs = network.eval().to(device), [each.to(device) for each in example]
    times = []
    for _ in range(WARMUP_RUNS + TIMED_RUNS):
        started = time.perf_counter()
        network(*inputs)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[WARMUP_RUNS:]) * 1000
