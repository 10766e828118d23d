"""The classifier in PyTorch, on any device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fer.classifier.model import load_model
from fer.classifier.preprocess import normalize
from fer.classifier.runtimes.base import RawOutputs
from fer.models.device import amp_dtype, torch_device


class TorchRuntime:
    """The network of a model folder. GPUs compute in bfloat16, older ones in float16, CPUs in float32."""

    def __init__(self, folder: Path, device: str) -> None:
        self.torch_device = torch_device(device)
        self.device = str(self.torch_device)
        self.amp = amp_dtype(self.torch_device) if self.torch_device.type == "cuda" else None
        model, self.spec = load_model(folder, self.torch_device)
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> RawOutputs:
        images = normalize(torch.from_numpy(pixels).to(self.torch_device, non_blocking=True), self.spec)
        with torch.autocast(self.torch_device.type, self.amp, enabled=self.amp is not None):
            outputs = self.model(images)
        return RawOutputs(*(None if head is None else head.float().cpu().numpy() for head in outputs))
