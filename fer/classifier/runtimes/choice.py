"""Which runtime computes a model: the one that its folder was exported for, else PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path

from fer.classifier.runtimes.base import Runtime
from fer.classifier.spec import ModelSpec
from fer.models.cpu import lacks_instructions
from fer.models.folder import read_spec


def open_runtime(folder: Path, device: str) -> Runtime:
    """Load the model of ``folder``.

    On ``auto`` and ``cpu``, an exported model runs in ONNX Runtime or OpenVINO, without importing torch. Any other, and
    every model on a GPU, runs in PyTorch; ``auto`` is then a GPU if there is one. Raises UserError for a folder without
    a classifier, a missing GPU, and a missing OpenVINO.
    """
    spec = read_spec(folder, ModelSpec)
    if device not in ("auto", "cpu") or spec.format == "torch":
        from fer.classifier.runtimes.torch import TorchRuntime

        return TorchRuntime(folder, device)
    if lacks_instructions(spec.precision):
        print(f"this CPU has no instructions for {spec.precision}: a model in fp32 is faster here", file=sys.stderr)
    if spec.format == "openvino":
        from fer.classifier.runtimes.openvino import OpenVinoRuntime

        return OpenVinoRuntime(folder)
    from fer.classifier.runtimes.onnx import OnnxRuntime

    return OnnxRuntime(folder)
