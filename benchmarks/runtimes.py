"""Latency and accuracy of the classifier in each runtime and precision, on the CPU.

    python -m benchmarks.runtimes --data fer2013.zip --filter '*PrivateTest*'
    python -m benchmarks.runtimes --backbone resnet18 --img-size 224 --data fer2013.zip

All take turns in one process, in each round; the ratio is that to PyTorch (eager, fp32). A backbone has random weights,
so its accuracy is not measured.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from fer.classifier.evaluate.evaluator import Evaluation, evaluate
from fer.classifier.export.graph import export_graph
from fer.classifier.model import build_model, new_spec, save_model
from fer.classifier.options import ModelOptions
from fer.classifier.predictor import Predictor
from fer.classifier.runtimes.base import Runtime
from fer.classifier.runtimes.choice import open_runtime
from fer.classifier.runtimes.torch import TorchRuntime
from fer.data.manifest import ShardedDataset
from fer.data.options import DataOptions
from fer.data.prepare import open_dataset
from fer.labels import get_space
from fer.options import Options, parse
from fer.registry import DEFAULT_MODEL, resolve_model
from fer.tracking import TrackingOptions

BATCHES = (1, 8, 32)
SECONDS = 0.3
"""Least time of a measurement."""
EXPORTS = (("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))


class RuntimesBenchmark(Options):
    """Compare runtimes and precisions on the CPU."""

    model: str = Field(DEFAULT_MODEL, description="Model")
    backbone: str | None = Field(None, description="A timm model with random weights instead")
    img_size: int = Field(224, description="Its input size")
    data: str = Field(description="Labelled data set; its training split calibrates INT8")
    split: str = Field("test", description="Split to evaluate on")
    filter: str | None = Field(None, description="Evaluate only rows whose path matches this glob pattern")
    cache: str = Field("runs/data", description="Where shards of the data set are kept")
    threads: list[int] = Field([1, 2], description="Numbers of threads")
    rounds: int = Field(7, ge=1, description="Rounds of turns")
    compile: bool = Field(True, description="Measure torch.compile, too")


def main(config: RuntimesBenchmark) -> None:
    dataset = open_dataset(DataOptions(data=config.data), config.cache)
    with tempfile.TemporaryDirectory() as scratch:
        folder = find_model(config, Path(scratch))
        openers = write_models(folder, Path(scratch), dataset, config.compile)
        for threads in config.threads:
            os.environ["OMP_NUM_THREADS"] = str(threads)
            torch.set_num_threads(threads)
            opened = {name: start(name, open_it) for name, open_it in openers.items()}
            for batch in BATCHES:
                print_latencies(measure(opened, batch, config.rounds), batch, threads)
        if not config.backbone:
            predictor = Predictor([folder], "cpu")
            for name, runtime in opened.items():
                predictor.models = [runtime]
                print_accuracy(name, evaluate(predictor, dataset, config.split, config.filter))


def find_model(config: RuntimesBenchmark, scratch: Path) -> Path:
    """The folder of the model, or of a backbone with random weights."""
    if not config.backbone:
        return resolve_model(config.model, TrackingOptions())
    spec = new_spec(ModelOptions(backbone=config.backbone, img_size=config.img_size), get_space("fer2013"))
    torch.manual_seed(0)
    save_model(build_model(spec), spec, scratch / "random")
    return scratch / "random"


def write_models(
    folder: Path, scratch: Path, dataset: ShardedDataset, compiled: bool
) -> dict[str, Callable[[], Runtime]]:
    """Export the model in each format and precision; returns what opens each, by name."""
    openers: dict[str, Callable[[], Runtime]] = {
        "torch fp32": partial(TorchRuntime, folder, "cpu"),
        "torch bf16": partial(open_torch, folder, bf16=True),
    }
    if compiled:
        openers["torch.compile fp32"] = partial(open_torch, folder, compiled=True)
        openers["torch.compile bf16"] = partial(open_torch, folder, bf16=True, compiled=True)
    for form, precision in EXPORTS:
        out = scratch / f"{form}-{precision}"
        export_graph(folder, out, form, precision, dataset)
        openers[f"{form} {precision}"] = partial(open_runtime, out, "cpu")
    return openers


def open_torch(folder: Path, bf16: bool = False, compiled: bool = False) -> Runtime:
    """PyTorch as Ferry does not use it on CPUs."""
    runtime = TorchRuntime(folder, "cpu")
    runtime.amp = torch.bfloat16 if bf16 else None
    if compiled:
        runtime.model = torch.compile(runtime.model)
    return runtime


def start(name: str, open_it: Callable[[], Runtime]) -> Runtime:
    """Open a runtime and compute a batch of each size once; prints the time."""
    started = time.perf_counter()
    runtime = open_it()
    for batch in BATCHES:
        runtime(noise(runtime, batch))
    print(f"{name}: ready after {time.perf_counter() - started:.1f} s", flush=True)
    return runtime


def measure(runtimes: dict[str, Runtime], batch: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds per image of each runtime in each round."""
    times: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(rounds):
        for name, runtime in runtimes.items():
            pixels, calls = noise(runtime, batch), 0
            runtime(pixels)
            started = time.perf_counter()
            while (elapsed := time.perf_counter() - started) < SECONDS:
                runtime(pixels)
                calls += 1
            times[name].append(1000 * elapsed / calls / batch)
    return times


def noise(runtime: Runtime, batch: int) -> np.ndarray:
    side, channels = runtime.spec.options.img_size, runtime.spec.options.in_chans
    return np.random.default_rng(0).integers(0, 256, (batch, side, side, channels), np.uint8)


def print_latencies(times: dict[str, list[float]], batch: int, threads: int) -> None:
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"batch {batch}, {threads} thread(s): ms per image (best to worst round), ratio to torch fp32")
    for name, values in times.items():
        ratio = medians["torch fp32"] / medians[name]
        print(f"  {name:<20}{medians[name]:8.2f}  ({min(values):.2f} to {max(values):.2f}){ratio:7.2f}", flush=True)


def print_accuracy(name: str, evaluation: Evaluation) -> None:
    assert evaluation.expression is not None, "the model classifies"
    accuracy = evaluation.expression.accuracy
    print(f"{name:<20} accuracy {accuracy.value:.2%} [{accuracy.low:.2%}, {accuracy.high:.2%}]", flush=True)


if __name__ == "__main__":
    main(parse(RuntimesBenchmark, sys.argv[1:], "runtimes benchmark"))
