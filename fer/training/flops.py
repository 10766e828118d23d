"""Model FLOPs utilisation (MFU; Chowdhery et al., PaLM, 2022, appendix B): useful operations over the device's peak.

    MFU = tokens per second of a device x forward FLOPs per token x (2 + share of weights that learn) / peak

A forward pass is counted by torch on a real batch, attention and image encoder included. A backward pass costs as much
once for activations, and once more for the weights that learn. What checkpointing computes again is not counted.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

# Dense bfloat16 peaks in TFLOP/s, from NVIDIA's data sheets, by a part of the name that torch reports.
PEAKS = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0}


def peak_flops(device: torch.device, tflops: float | None) -> float | None:
    """The device's peak in operations a second: as given, else by its name; None where neither is known."""
    if tflops is not None:
        return tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in PEAKS.items() if part in name), None)


def count_flops(forward: Callable[[], object]) -> float:
    """Floating point operations of ``forward()``, a multiply-add being two."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    return float(counter.get_total_flops())
