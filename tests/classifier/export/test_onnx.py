"""Export to ONNX: the same outputs without torch, and one file of weights for both runtimes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer.classifier.export.onnx import TOLERANCE, export_onnx
from fer.classifier.predictor import Predictor
from fer.classifier.runtimes.onnx import OnnxRuntime
from fer.classifier.runtimes.torch import TorchRuntime

Make = Callable[..., Path]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("head", ["classification", "valence-arousal", "both"])
def test_both_runtimes_agree(make_classifier: Make, tmp_path: Path, head: str, half: bool) -> None:
    folder = make_classifier(tmp_path / "trained", head=head, in_chans=1)
    assert export_onnx(folder, tmp_path / "exported", half) <= TOLERANCE
    one, other = OnnxRuntime(tmp_path / "exported"), TorchRuntime(tmp_path / "exported", "cpu")
    pixels = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 1), np.uint8)
    for found, expected in zip(one(pixels), other(pixels), strict=True):
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_the_weights_are_stored_once_and_in_half_precision(make_classifier: Make, tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "trained")
    export_onnx(folder, tmp_path / "exported", half=True)
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "exported").iterdir()}
    assert sizes["model.safetensors"] < 0.52 * (folder / "model.safetensors").stat().st_size
    assert sizes["model.onnx"] < 60_000, "a graph without weights"


def test_an_exported_model_predicts_the_same_without_torch(make_classifier: Make, tmp_path: Path) -> None:
    export_onnx(make_classifier(tmp_path / "trained"), tmp_path / "exported")
    images = list(np.random.default_rng(2).integers(0, 256, (3, 40, 30, 3), np.uint8))
    expected = Predictor([tmp_path / "trained"], "cpu", tta=True).predict(images).probabilities
    program = (
        "import json, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from fer.classifier.predictor import Predictor\n"
        "images = list(np.random.default_rng(2).integers(0, 256, (3, 40, 30, 3), np.uint8))\n"
        f"predictor = Predictor([Path({str(tmp_path / 'exported')!r})], tta=True)\n"
        "assert not {'torch', 'timm', 'ray', 'mlflow'} & set(sys.modules), 'slow to import'\n"
        "print(json.dumps(predictor.predict(images).probabilities.tolist()))\n"
    )
    found = json.loads(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)
    np.testing.assert_allclose(found, expected, atol=1e-4)
