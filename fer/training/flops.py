"""Model FLOPs utilisation (MFU; Chowdhery et al., PaLM, 2022, appendix B): useful operations over the device's peak.

    MFU = tokens per second per device x forward FLOPs per token x (2 + fraction of trainable weights) / peak

Torch counts the forward pass on a real batch, including attention and the image encoder. The backward pass costs the
same once for the activations, and once more for the trainable weights. Recomputation by gradient checkpointing is not
counted.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

# Dense bfloat16 peak in TFLOP/s, from NVIDIA's data sheets, by a substring of torch's device name.
PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
}


def peak_flops(device: torch.device, tflops: float | None) -> float | None:
    """Peak of the device in FLOP/s: ``tflops`` if given, else by the device's name; None if unknown."""
    if tflops is not None:
        return tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in PEAK_TFLOPS.items() if part in name), None)


def count_flops(forward: Callable[[], object]) -> float:
    """Floating point operations of ``forward()``; a multiply-add counts as two."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    return float(counter.get_total_flops())
