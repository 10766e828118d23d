"""Export of a classifier: a model folder with a graph that runs on CPUs without PyTorch, in a precision."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from fer.classifier.evaluate.rows import read_batches
from fer.classifier.export.onnx import export_onnx
from fer.classifier.preprocess import to_input
from fer.classifier.runtimes.openvino import import_openvino
from fer.classifier.spec import Format, ModelSpec, Precision
from fer.data.images import decode_rgb
from fer.data.manifest import ShardedDataset
from fer.models.folder import read_spec, update_spec
from fer.registry import GRAPH, OPENVINO_GRAPH

CALIBRATION_BATCHES, BATCH_SIZE = 16, 32
CARD = "README.md"


def export_graph(folder: Path, out: Path, form: Format, precision: Precision, dataset: ShardedDataset | None) -> None:
    """Write the classifier of ``folder`` to ``out`` with a graph; INT8 is calibrated on the training split.

    The weights stay beside the graph, for GPUs. Raises UserError if OpenVINO is wanted and not installed.
    """
    export_onnx(folder, out, half=precision == "fp16")
    if precision == "int8":
        from fer.classifier.export.int8 import quantize

        assert dataset is not None, "INT8 needs calibration images"
        quantize(out / GRAPH, islice(input_batches(dataset, "train", read_spec(out, ModelSpec)), CALIBRATION_BATCHES))
    if form == "openvino":
        _convert_to_openvino(out, half=precision == "fp16")
    update_spec(out, ModelSpec, format=form, precision=precision)
    if (folder / CARD).is_file():
        shutil.copy(folder / CARD, out)


def input_batches(dataset: ShardedDataset, split: str, spec: ModelSpec) -> Iterator[np.ndarray]:
    """The images of a split as the network's input, batches (N, side, side, C) uint8; shards are shuffled."""
    for table in read_batches(dataset, split, BATCH_SIZE):
        yield np.stack([to_input(decode_rgb(image), spec) for image in table["image"].to_pylist()])


def _convert_to_openvino(folder: Path, half: bool) -> None:
    """Replace the ONNX graph of a model folder by OpenVINO's, with weights of its own."""
    openvino = import_openvino()
    openvino.save_model(openvino.Core().read_model(folder / GRAPH), folder / OPENVINO_GRAPH, compress_to_fp16=half)
    (folder / GRAPH).unlink()
