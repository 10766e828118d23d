"""The one way from frame pairs in memory to scores, shared by judging, prediction and serving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fer.dynamics.data_loader import judging
from fer.dynamics.frames import FramePair
from fer.dynamics.model import load_model
from fer.dynamics.scores import SCORES
from fer.models.device import torch_device


class Scorer:
    """A trained model. ``device`` is auto, cpu or gpu. Raises UserError for a folder without a scorer."""

    def __init__(self, folder: Path, device: str = "auto", batch_size: int = 64) -> None:
        self.device, self.batch_size = torch_device(device), batch_size
        self.model, self.spec = load_model(folder, self.device)

    @torch.inference_mode()
    def __call__(self, frames: Sequence[FramePair]) -> np.ndarray:
        """Scores (N, 2) of N frames, real numbers within their ranges, in the order of `SCORES`."""
        scores = [np.empty((0, len(SCORES)), np.float32)]
        for batch in judging(frames, self.batch_size):
            inputs = [batch[name].to(self.device) for name in ("pictures", "expression", "baseline")]
            scores.append(self.model(*inputs, branch=self.spec.branch).float().cpu().numpy())
        return np.clip(np.concatenate(scores), 0, list(SCORES.values()))


def levels(scores: np.ndarray) -> np.ndarray:
    """Scores as whole levels: rounded, halves up."""
    return np.floor(scores + 0.5).astype(int)
