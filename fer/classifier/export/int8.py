"""Static quantization to INT8: weights per channel, activations by their range on calibration images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class CalibrationImages(CalibrationDataReader):
    """Feeds batches (N, side, side, C) uint8 to the calibration."""

    def __init__(self, batches: Iterator[np.ndarray]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        pixels = next(self.batches, None)
        return None if pixels is None else {"pixels": pixels}


def quantize(graph: Path, batches: Iterator[np.ndarray]) -> None:
    """Replace a graph by one with quantized weights and activations (QDQ); ``batches`` are training images.

    Activations are unsigned and weights signed, the pair that VNNI multiplies. The heads stay in float32, and in a
    transformer all but products: its residual stream has outliers that one scale does not fit.
    """
    with tempfile.TemporaryDirectory() as scratch:
        whole, folded = Path(scratch) / "whole.onnx", Path(scratch) / "folded.onnx"
        onnx.save(onnx.load(graph), whole)  # with its weights
        quant_pre_process(whole, folded, skip_symbolic_shape=True)  # batch norms become part of the convolutions
        nodes = onnx.load(folded).graph.node
        transformer = any(node.op_type == "LayerNormalization" for node in nodes)
        quantize_static(
            folded,
            graph,
            CalibrationImages(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul"] if transformer else None,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in nodes if node.op_type == "Gemm"],
        )
