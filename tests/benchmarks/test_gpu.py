"""The GPU script without a GPU: the same parts with tiny models, and the report of one that fails."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as script
from benchmarks.gpu import sft
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.models import QWEN_3B, QWEN_7B, Shape, shaped_config
from benchmarks.gpu.parts import PARTS, Figures, Part
from benchmarks.gpu.plan import table
from tests.test_docs import ROOT


def test_every_part_has_a_function() -> None:
    for part in PARTS.values():
        module, function = part.function.split(":")
        assert callable(getattr(import_module(f"benchmarks.gpu.{module}"), function))


@pytest.mark.slow
def test_a_part_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTS, "missing", Part("nowhere:run", "nothing"))
    assert not script.main(script.GpuBenchmark(parts=["missing", "environment"], out=str(tmp_path)))
    report = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert report["missing"]["error"] == "it ended with code 1"
    assert report["environment"]["error"] is None
    assert report["environment"]["figures"]["torch"] == torch.__version__.partition("+")[0]
    table = (tmp_path / "report.md").read_text()
    assert "| missing | nothing |" in table
    assert "KeyError: 'missing'" in table, "the end of its log"


def test_a_part_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    outcome = script.run_part("environment", tmp_path, seconds=0.1)
    assert outcome.error == "not finished within 0 s"


@pytest.mark.slow
def test_sft_of_tiny_models(tmp_path: Path, ray_cluster: None) -> None:
    figures = Figures(tmp_path / "figures.json")
    sft.run_7b(Machine(gpus=0, memory=0), tmp_path, figures)
    saved: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text())
    assert saved == figures
    assert saved["trained"] == "adapters"
    assert saved["tokens/s, all GPUs"] > 0
    assert saved["estimate for adapters, GB"] < saved["estimate for all weights, GB"]


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("part", ["tensor-parallel", "recovery", "grpo", "ferbench", "serve"])
def test_a_part_with_tiny_models(part: str, tmp_path: Path) -> None:
    outcome = script.run_part(part, tmp_path, seconds=550)
    print(outcome.figures)
    assert outcome.error is None, (tmp_path / f"{part}.log").read_text()[-3000:]


@pytest.mark.parametrize(("shape", "parameters"), [(QWEN_3B, 3_754_622_976), (QWEN_7B, 8_292_166_656)])
def test_shapes_have_the_published_numbers_of_weights(shape: Shape, parameters: int, tiny_models: Path) -> None:
    from transformers import AutoModelForMultimodalLM

    with torch.device("meta"):
        model = AutoModelForMultimodalLM.from_config(shaped_config(shape, str(tiny_models / "qwen2.5-vl")))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_documented_plan_is_the_computed_one() -> None:
    page = (ROOT / "docs/vlm.md").read_text()
    assert [line for line in table() if line not in page] == []


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(6000)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_every_part_on_a_gpu(tmp_path: Path) -> None:
    assert script.main(script.GpuBenchmark(out=str(tmp_path))), (tmp_path / "report.md").read_text()
