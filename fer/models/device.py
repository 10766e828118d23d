"""Device names, and the dtype that a device computes fast."""

from __future__ import annotations

import torch

from fer.errors import UserError


def torch_device(name: str) -> torch.device:
    """Device `auto` (a GPU if available), `cpu`, `gpu` or a torch device name. Raises UserError if unavailable."""
    if name == "auto":
        name = "gpu" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device("cuda" if name == "gpu" else name)
    except RuntimeError:
        raise UserError(f"--device: unknown device {name!r}; use auto, cpu or gpu") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: torch finds no GPU on this machine; use cpu")
    return device


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """Mixed-precision dtype: bfloat16 where the device supports it, float16 on older GPUs, None on older CPUs."""
    if device.type == "cuda":  # before compute capability 8.0 (T4, V100), bfloat16 is emulated
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None
