"""How a classifier computes: with PyTorch, or with ONNX Runtime where its folder holds an exported graph."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from fer.classifier.spec import ModelSpec
from fer.tracking import GRAPH


class RawOutputs(NamedTuple):
    """Outputs for N images; None for a head that the model does not have."""

    logits: np.ndarray | None
    """(N, classes) float32."""
    valence_arousal: np.ndarray | None
    """(N, 2) float32, each in [-1, 1]."""


class Runtime(Protocol):
    """A model in memory. Thread-safe."""

    spec: ModelSpec
    device: str

    def __call__(self, pixels: np.ndarray) -> RawOutputs:
        """Compute the outputs for a batch (N, side, side, C) uint8, as `fer.classifier.preprocess.to_input` makes it."""
        ...


def open_runtime(folder: Path, device: str) -> Runtime:
    """Load the model of ``folder``.

    A model with an exported graph runs in ONNX Runtime on ``auto`` and ``cpu``, without importing torch. Any other runs
    in PyTorch; ``auto`` is a GPU if there is one. Raises UserError for a folder without a classifier, or a missing GPU.
    """
    if device in ("auto", "cpu") and (folder / GRAPH).is_file():
        from fer.classifier.runtime_onnx import OnnxRuntime

        return OnnxRuntime(folder)
    from fer.classifier.runtime_torch import TorchRuntime

    return TorchRuntime(folder, device)
