"""Device names."""

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
