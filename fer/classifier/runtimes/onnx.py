"""The classifier in ONNX Runtime, on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime

from fer.classifier.runtimes.base import RawOutputs
from fer.classifier.spec import ModelSpec
from fer.cpus import cpu_count
from fer.models.folder import read_spec
from fer.registry import GRAPH


class OnnxRuntime:
    """The exported graph of a model folder. As many threads as OMP_NUM_THREADS says, else one for each core."""

    device = "cpu"

    def __init__(self, folder: Path) -> None:
        self.spec = read_spec(folder, ModelSpec)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or cpu_count())
        options.log_severity_level = 3  # errors only
        self.session = onnxruntime.InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def __call__(self, pixels: np.ndarray) -> RawOutputs:
        outputs = dict(zip(self.names, self.session.run(None, {"pixels": pixels}), strict=True))
        return RawOutputs(outputs.get("logits"), outputs.get("valence_arousal"))
