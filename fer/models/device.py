"""Where a model computes: a GPU or the CPU."""

from __future__ import annotations

import torch

from fer.errors import UserError


def torch_device(name: str) -> torch.device:
    """`auto` (a GPU if there is one), `cpu`, `gpu` or torch's own name. Raises UserError for one that is not there."""
    if name == "auto":
        name = "gpu" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device("cuda" if name == "gpu" else name)
    except RuntimeError:
        raise UserError(f"--device: no device is called {name!r}; use auto, cpu or gpu") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: there is no GPU that torch can use on this machine; use cpu")
    return device
