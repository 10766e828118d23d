"""What a runtime offers: `torch`, `onnx` and `openvino` compute the outputs of a classifier."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from fer.classifier.spec import ModelSpec


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
        """Compute the outputs for a batch (N, side, side, C) uint8 of `fer.classifier.preprocess.to_input`."""
        ...
