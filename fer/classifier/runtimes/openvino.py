"""The classifier in OpenVINO, on the CPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from threading import local
from types import ModuleType

import numpy as np

from fer.classifier.runtimes.base import RawOutputs
from fer.classifier.spec import ModelSpec
from fer.cpus import cpu_count
from fer.errors import UserError
from fer.models.folder import read_spec
from fer.registry import OPENVINO_GRAPH


class OpenVinoRuntime:
    """The OpenVINO graph of a model folder, on as many threads as `OnnxRuntime`. Raises UserError without OpenVINO."""

    device = "cpu"

    def __init__(self, folder: Path) -> None:
        self.spec = read_spec(folder, ModelSpec)
        settings = {
            "INFERENCE_NUM_THREADS": int(os.environ.get("OMP_NUM_THREADS") or cpu_count()),
            "INFERENCE_PRECISION_HINT": "bf16" if self.spec.precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # all replicas on a machine would be bound to its first cores
        }
        self.model = import_openvino().Core().compile_model(folder / OPENVINO_GRAPH, "CPU", settings)
        self.requests = local()  # a request holds the outputs of one call: each thread has its own

    def __call__(self, pixels: np.ndarray) -> RawOutputs:
        if not hasattr(self.requests, "own"):
            self.requests.own = self.model.create_infer_request()
        results = self.requests.own.infer({"pixels": pixels}).to_dict()
        outputs = {name: values for output, values in results.items() for name in output.names}
        return RawOutputs(outputs.get("logits"), outputs.get("valence_arousal"))


def import_openvino() -> ModuleType:
    """OpenVINO. Raises UserError if it is not installed.

    It would send usage statistics whenever it is imported. Without its package for that, it sends none.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
    try:
        import openvino
    except ModuleNotFoundError:
        raise UserError("OpenVINO is not installed: pip install 'ferry-fer[openvino]'") from None
    return openvino
