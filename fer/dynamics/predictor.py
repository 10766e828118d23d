"""Scores of frame pairs in memory; shared by evaluation, prediction and serving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fer.dynamics.data_loader import inference_batches
from fer.dynamics.frames import FramePair
from fer.dynamics.model import load_model
from fer.dynamics.scores import SCORES
from fer.models.device import torch_device


class DynamicsPredictor:
    """A trained model. ``device`` is auto, cpu or gpu. Raises UserError if ``folder`` is not a dynamics model."""

    def __init__(self, folder: Path, device: str = "auto", batch_size: int = 64) -> None:
        self.device, self.batch_size = torch_device(device), batch_size
        self.model, self.spec = load_model(folder, self.device)

    @torch.inference_mode()
    def predict(self, frames: Sequence[FramePair]) -> np.ndarray:
        """Scores (N, 2) of N frames, clipped to their ranges, in the order of `SCORES`."""
        scores = [np.empty((0, len(SCORES)), np.float32)]
        for batch in inference_batches(frames, self.batch_size):
            inputs = [batch[name].to(self.device) for name in ("flow_image", "expression", "baseline")]
            scores.append(self.model(*inputs, branch=self.spec.branch).float().cpu().numpy())
        return np.clip(np.concatenate(scores), 0, list(SCORES.values()))


def to_levels(scores: np.ndarray) -> np.ndarray:
    """Scores as integer levels; halves are rounded up."""
    return np.floor(scores + 0.5).astype(int)
