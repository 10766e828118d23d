"""What a classifier's model folder says about its network: `model.json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fer.classifier.options import ModelOptions
from fer.classifier.reference import Reference
from fer.data.record import DataRecord
from fer.faces.options import Preprocessing
from fer.labels import LabelSpace

Format = Literal["torch", "onnx", "openvino"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


class ModelSpec(BaseModel):
    """What is needed to build a model and to preprocess its input; `model.json` of a model folder."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    options: ModelOptions
    label_space: str
    labels: list[str]
    mean: list[float]
    """Per channel, of pixels in [0, 1]."""
    std: list[float]
    temperature: float = 1.0
    """Divides the logits before the softmax; fitted on the validation split, so that confidence is calibrated."""
    format: Format = "torch"
    """What runs the model on a CPU: `fer export` adds a graph for ONNX Runtime or OpenVINO to the weights."""
    precision: Precision = "fp32"
    """Precision of that graph. With fp16, weights are stored in it and computed with in fp32."""
    preprocessing: Preprocessing | None = None
    """How the faces of the training data were cut out of photographs; None if that is not known."""
    reference: Reference | None = None
    """Its predictions on the validation split, with which serving compares its own; None: not known."""
    training: dict[str, Any] = {}
    """How the model was trained: run, data, metrics. Informational: it appears on the model card."""
    data: DataRecord | None = None
    """The training data, so that no row of it is evaluated unnoticed; None if it is not known."""

    @property
    def space(self) -> LabelSpace:
        return LabelSpace(self.label_space, tuple(self.labels))

    @property
    def has_expression(self) -> bool:
        """Whether the model classifies expressions."""
        return self.options.head != "valence-arousal"

    @property
    def has_affect(self) -> bool:
        """Whether the model estimates valence and arousal."""
        return self.options.head != "classification"
