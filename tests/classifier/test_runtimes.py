"""Which runtime opens which model folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fer.classifier.export.onnx import export_onnx
from fer.classifier.runtimes import choice
from fer.classifier.runtimes.choice import open_runtime
from fer.classifier.runtimes.onnx import OnnxRuntime
from fer.classifier.runtimes.torch import TorchRuntime
from fer.classifier.spec import ModelSpec
from fer.errors import UserError
from fer.models.folder import read_spec
from fer.registry import SPEC

Make = Callable[..., Path]


@pytest.fixture
def exported(make_classifier: Make, tmp_path: Path) -> Path:
    export_onnx(make_classifier(tmp_path / "trained"), tmp_path / "exported")
    return tmp_path / "exported"


def rewrite_spec(folder: Path, **changes: str) -> None:
    spec = read_spec(folder, ModelSpec).model_copy(update=changes)
    (folder / SPEC).write_text(spec.model_dump_json())


def test_a_trained_model_runs_in_pytorch(make_classifier: Make, tmp_path: Path) -> None:
    assert isinstance(open_runtime(make_classifier(tmp_path / "trained"), "cpu"), TorchRuntime)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_an_exported_model_runs_in_its_runtime(exported: Path, device: str) -> None:
    assert isinstance(open_runtime(exported, device), OnnxRuntime)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_every_model_runs_in_pytorch_on_a_gpu(exported: Path) -> None:
    assert isinstance(open_runtime(exported, "gpu"), TorchRuntime)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_no_reason_for_another_runtime(exported: Path) -> None:
    with pytest.raises(UserError, match="finds no GPU"):
        open_runtime(exported, "gpu")


def test_a_missing_openvino_is_one_line(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite_spec(exported, format="openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"^OpenVINO is not installed: pip install 'ferry-fer\[openvino\]'$"):
        open_runtime(exported, "auto")


def test_a_cpu_without_the_instructions_is_named(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite_spec(exported, precision="int8")
    monkeypatch.setattr(choice, "lacks_instructions", lambda precision: precision == "int8")
    open_runtime(exported, "auto")
    assert capsys.readouterr().err == "this CPU has no instructions for int8: a model in fp32 is faster here\n"


def test_openvino_sends_no_usage_statistics(tmp_path: Path) -> None:
    """Its package for them notes each import in the home folder, and tells a web service."""
    program = "from fer.classifier.runtimes.openvino import import_openvino; import_openvino().Core()"
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("CI", None)  # where they are off
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert list(tmp_path.iterdir()) == []
