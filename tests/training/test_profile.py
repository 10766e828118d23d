"""A torch profile of three steps."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import torch

from fer.training.profile import StepProfiler


class RecordingRun:
    """In place of an MLflow run."""

    def __init__(self) -> None:
        self.traces: list[dict[str, Any]] = []

    def log_artifacts(self, folder: Path, path: str) -> None:
        assert path == "profile"
        self.traces += [json.loads(gzip.decompress(file.read_bytes())) for file in folder.iterdir()]


def take_steps(number: int, enabled: bool = True) -> list[dict[str, Any]]:
    run: Any = RecordingRun()
    profiler = StepProfiler(enabled, run)
    for _ in range(number):
        torch.ones(8, 8) @ torch.ones(8, 8)
        profiler.step()
    profiler.close()
    return run.traces


def steps(trace: dict[str, Any]) -> set[str]:
    return {event["name"] for event in trace["traceEvents"] if str(event.get("name")).startswith("ProfilerStep")}


def test_the_third_to_fifth_step_are_recorded() -> None:
    [trace] = take_steps(9)
    assert steps(trace) == {"ProfilerStep#2", "ProfilerStep#3", "ProfilerStep#4"}
    assert any(event.get("name") == "aten::mm" for event in trace["traceEvents"])


def test_a_shorter_run_records_what_there_is() -> None:
    [trace] = take_steps(4)
    assert {"ProfilerStep#2", "ProfilerStep#3"} <= steps(trace)
    assert take_steps(1) == []


def test_without_the_option_nothing_is_recorded() -> None:
    assert take_steps(9, enabled=False) == []
