"""Export to ONNX: preprocessing and network as one graph, whose weights stay in the model folder's safetensors file."""

from __future__ import annotations

import json
import logging
import struct
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from fer.classifier.model import FaceModel, load_model, save_model
from fer.classifier.preprocess import normalize
from fer.classifier.runtimes.onnx import OnnxRuntime
from fer.classifier.spec import ModelSpec
from fer.registry import GRAPH, WEIGHTS

OPSET = 18
TYPES = {"F32": onnx.TensorProto.FLOAT, "F16": onnx.TensorProto.FLOAT16}
TOLERANCE = 1e-3
"""Largest difference of the logits and estimates from PyTorch's."""


class PixelsToOutputs(nn.Module):
    """Pixels (N, side, side, C) uint8 to the outputs of the heads that the model has."""

    def __init__(self, model: FaceModel, spec: ModelSpec) -> None:
        super().__init__()
        self.model, self.spec = model, spec

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(normalize(pixels, self.spec))
        return tuple(head for head in outputs if head is not None)


def export_onnx(folder: Path, out: Path, half: bool = False) -> float:
    """Write the classifier of ``folder`` to ``out``, with a graph for ONNX Runtime; ``half`` stores float16 weights.

    Both runtimes compute in float32. Returns the largest difference of their outputs, at most `TOLERANCE`.
    """
    model, spec = load_model(folder)
    spec = spec.model_copy(update={"format": "onnx", "precision": "fp16" if half else "fp32"})
    save_model(model.half() if half else model, spec, out)
    model, spec = load_model(out)

    graph = trace(model, spec, out / GRAPH)
    link_weights(graph, out / WEIGHTS)
    onnx.save(graph, out / GRAPH)
    difference = compare(model, spec, OnnxRuntime(out))
    assert difference <= TOLERANCE, f"the outputs in ONNX Runtime differ by {difference}"
    return difference


def trace(model: FaceModel, spec: ModelSpec, file: Path) -> onnx.ModelProto:
    """The graph of preprocessing and network; initializers have the names of the weights."""
    side, channels = spec.options.img_size, spec.options.in_chans
    names = [*(["logits"] if spec.has_expression else []), *(["valence_arousal"] if spec.has_affect else [])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            PixelsToOutputs(model, spec),
            (torch.zeros(2, side, side, channels, dtype=torch.uint8),),
            file,
            input_names=["pixels"],
            output_names=names,
            dynamic_axes={name: {0: "images"} for name in ("pixels", *names)},
            opset_version=OPSET,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            dynamo=False,
        )
    return onnx.load(file)


def link_weights(graph: onnx.ModelProto, weights: Path) -> None:
    """Let the graph's initializers refer to a safetensors file beside it, instead of holding a copy of the weights."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    casts = []
    for tensor in graph.graph.initializer:
        name = tensor.name.removeprefix("model.")
        if name not in header:
            continue
        begin, end = header[name]["data_offsets"]
        stored = TYPES[header[name]["dtype"]]
        if stored != tensor.data_type:
            casts.append(onnx.helper.make_node("Cast", [f"{name}.stored"], [tensor.name], to=tensor.data_type))
            tensor.name = f"{name}.stored"
        tensor.data_type = stored
        set_external_data(tensor, weights.name, offset=8 + length + begin, length=end - begin)
        tensor.ClearField("raw_data")
    for position, cast in enumerate(casts):
        graph.graph.node.insert(position, cast)


def compare(model: FaceModel, spec: ModelSpec, runtime: OnnxRuntime) -> float:
    """The largest difference between the outputs of PyTorch and ONNX Runtime, for noise."""
    side, channels = spec.options.img_size, spec.options.in_chans
    pixels = np.random.default_rng(0).integers(0, 256, (8, side, side, channels), np.uint8)
    with torch.inference_mode():
        expected = model(normalize(torch.from_numpy(pixels), spec))
    return max(
        float(np.abs(head.numpy() - found).max())
        for head, found in zip(expected, runtime(pixels), strict=True)
        if head is not None and found is not None
    )
