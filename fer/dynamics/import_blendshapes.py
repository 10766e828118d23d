"""Converts the weights of MediaPipe's blendshape network from its tflite file, a flatbuffer.

The file has half-precision weights, each dequantized before use. Its operators are in execution order, like the layers
of `BlendshapeNet`, so weights are matched to layers by their order.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from fer.dynamics.blendshapes import BlendshapeNet
from fer.errors import UserError

TFLITE_NAME = "face_blendshapes.tflite"
TOKEN = "extra_token"
MAX_BYTES = 64 * 2**20


def import_blendshapes(file: Path, out: Path) -> None:
    """Convert the network of a `.tflite` file or `.task` bundle to safetensors. Raises UserError for other files."""
    weights = read_weights(_tflite_bytes(file), file)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, out)


def read_weights(data: bytes, file: Path) -> dict[str, Tensor]:
    """The state dict of a `BlendshapeNet`. Raises UserError if the flatbuffer contains another network."""
    expected = BlendshapeNet().state_dict()
    layers = {name: value.shape for name, value in expected.items() if name != TOKEN}
    try:
        found, token = _parameters(data)
        weights = {
            name: torch.from_numpy(values.reshape(shape).copy())
            for (name, shape), values in zip(layers.items(), found, strict=True)
        }
        return {TOKEN: torch.from_numpy(token.reshape(expected[TOKEN].shape).copy())} | weights
    except (ValueError, TypeError, IndexError, AttributeError, struct.error):
        raise UserError(f"{file} is not MediaPipe's blendshape network ({TFLITE_NAME}), or is damaged") from None


def _parameters(data: bytes) -> tuple[list[np.ndarray], np.ndarray]:
    """Weights, biases and scales in execution order, and the extra token."""
    try:
        import tflite
    except ImportError:
        raise UserError("reading a .tflite file needs the package tflite: install the extra `landmarks`") from None
    if not tflite.Model.ModelBufferHasIdentifier(data, 0):
        raise ValueError("not a tflite flatbuffer")
    model = tflite.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    constants: dict[int, np.ndarray] = {}
    found: list[np.ndarray] = []
    token = np.empty(0)
    operator = tflite.BuiltinOperator
    for number in range(graph.OperatorsLength()):
        node = graph.Operators(number)
        inputs, output = node.InputsAsNumpy().tolist(), node.Outputs(0)
        code = model.OperatorCodes(node.OpcodeIndex())
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if kind == operator.DEQUANTIZE:
            constants[output] = _values(model, graph.Tensors(inputs[0]))
        elif kind == operator.CONV_2D:  # weights and bias
            found += [constants[inputs[1]], constants[inputs[2]]]
        elif kind == operator.MUL and (scale := constants.get(inputs[1])) is not None and scale.ndim == 1:
            found.append(scale)  # layer norm
        elif kind == operator.CONCATENATION and inputs[0] in constants:
            token = constants[inputs[0]]
    return found, token


def _values(model: Any, tensor: Any) -> np.ndarray:
    """A constant half-precision tensor as float32."""
    raw = model.Buffers(tensor.Buffer()).DataAsNumpy()
    return raw.view(np.float16).reshape(tensor.ShapeAsNumpy() if tensor.ShapeLength() else ()).astype(np.float32)


def _tflite_bytes(file: Path) -> bytes:
    """The bytes of a tflite file, or of the one in a bundle, which is a zip."""
    if not file.is_file():
        raise UserError(f"no file {file}")
    if not zipfile.is_zipfile(file):
        return file.read_bytes()
    with zipfile.ZipFile(file) as bundle:
        if TFLITE_NAME not in bundle.namelist() or bundle.getinfo(TFLITE_NAME).file_size > MAX_BYTES:
            raise UserError(f"{file} contains no {TFLITE_NAME}: use a Face Landmarker bundle with blendshapes")
        return bundle.read(TFLITE_NAME)
