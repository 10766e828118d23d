"""Static quantization of convolutional networks and transformers, with every head."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fer.classifier.export.int8 import quantize
from fer.classifier.export.onnx import export_onnx
from fer.classifier.runtimes.onnx import OnnxRuntime
from fer.registry import GRAPH

CNN = {"backbone": "test_resnet", "img_size": 32}


@pytest.mark.parametrize(
    "options",
    [
        CNN | {"head": "both"},
        CNN | {"head": "valence-arousal", "in_chans": 1},
        CNN | {"margin": "arcface"},
        {"backbone": "test_vit", "img_size": 96},
        {"backbone": "test_convnext", "img_size": 64},
    ],
)
def test_outputs_in_int8_are_nearly_those_in_float(
    options: dict[str, Any], make_classifier: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, side, channels = tmp_path / "exported", options["img_size"], options.get("in_chans", 3)
    export_onnx(make_classifier(tmp_path / "trained", **options), folder)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (32, side, side, channels), np.uint8)
    expected = OnnxRuntime(folder)(pixels)
    with caplog.at_level(logging.WARNING):
        quantize(folder / GRAPH, (random.integers(0, 256, (16, side, side, channels), np.uint8) for _ in range(4)))
    assert not caplog.records

    for before, after in zip(expected, OnnxRuntime(folder)(pixels), strict=True):
        if before is not None and after is not None:
            assert 0 < np.abs(before - after).max() < 0.2 * np.ptp(before)
    scales = [each.dims for each in onnx.load(folder / GRAPH).graph.initializer if each.name.endswith("_scale")]
    assert any(dims and dims[0] > 1 for dims in scales), "weights have a scale per channel"
