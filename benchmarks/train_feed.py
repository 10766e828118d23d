"""Feeds of the classifier's training: the cost of each stage per image, and Ferry's feeds against libraries.

    python -m benchmarks.train_feed

Rendered faces as JPEG files, decoded and augmented at the same size. Every feed but Kornia and DALI, which use the GPU
if there is one, calls Ferry's own functions for an image, so that what differs is how images get to them and from them.
The costs are CPU time, of all processes, which other work on the machine disturbs less than it does speed. A library
that is not installed is left out:

    pip install webdataset mosaicml-streaming kornia nvidia-dali-cuda120
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from pydantic import Field
from torch import Tensor

from fer.options import Options, parse

Feed = Callable[[int, int], Iterator[Tensor]]
"""A number of threads or processes, and of epochs, to batches (N, side, side, 3) uint8."""

SHORT, LONG = 1, 4
"""Epochs of the two runs whose difference is measured: without starting processes, and what they read ahead."""


class FeedBenchmark(Options):
    """Compare the feeds of training."""

    img_size: int = Field(224, ge=32, description="Side of the images and of the input, in pixels")
    rows: int = Field(1024, ge=256, description="Training images")
    batch_size: int = Field(64, ge=1, description="Images per batch")
    parallel: int = Field(2, ge=1, description="Threads or processes of each feed")
    rounds: int = Field(3, ge=1, description="Rounds, each of which runs all feeds once")
    auto_augment: bool = Field(True, description="With AutoAugment, as the full augmentation has it")
    cores: int = Field(16, ge=1, description="Cores to predict the speed for")
    feeds: list[str] = Field([], description="Names of the feeds to compare; none: all")


class Measured(NamedTuple):
    """Of one run of a feed."""

    rate: float
    """Images per second."""
    cost: float
    """CPU microseconds per image, of all processes."""
    here: float
    """CPU microseconds per image in the process that trains."""


def main(options: FeedBenchmark) -> None:
    from benchmarks.feeds.device import device_feeds
    from benchmarks.feeds.ferry import ferry_feeds
    from benchmarks.feeds.libraries import library_feeds
    from benchmarks.feeds.stages import predicted, stage_costs
    from benchmarks.setup import rendered_faces

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        shards = rendered_faces(root, options.rows, size=options.img_size, val_split=0)
        costs = stage_costs(shards, options)
        print(costs.table(), flush=True)
        feeds = ferry_feeds(shards, options) | library_feeds(root, options) | device_feeds(root, options)
        feeds = {name: feed for name, feed in feeds.items() if name in (options.feeds or feeds)}
        order = {name: keeps_order(feed) for name, feed in feeds.items()}  # and a first run of each, which is slower
        measured: dict[str, list[Measured]] = {name: [] for name in feeds}
        for _ in range(options.rounds):
            for name, feed in feeds.items():
                measured[name].append(measure(feed, options.parallel))
                print(name, *(f"{value:.0f}" for value in measured[name][-1]), flush=True)
        print(summary(measured, order))
        print(predicted(costs, measured, options.cores))


def measure(feed: Feed, parallel: int) -> Measured:
    """The speed and costs of a feed between a short run and a long one."""
    (seconds, cpu, here, images), long = (run(feed(parallel, epochs)) for epochs in (SHORT, LONG))
    images = long[3] - images
    return Measured(images / (long[0] - seconds), (long[1] - cpu) / images * 1e6, (long[2] - here) / images * 1e6)


def run(batches: Iterator[Tensor]) -> tuple[float, float, float, int]:
    """Seconds, CPU seconds of all processes and of this one, and images."""
    started, cpu, here = time.perf_counter(), cpu_seconds(), time.process_time()
    images = sum(len(batch) for batch in batches)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, cpu_seconds() - cpu, time.process_time() - here, images


def cpu_seconds() -> float:
    """User and system time of this process and its descendants, Ray's and those that have ended included."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and both of children that have ended
        except psutil.NoSuchProcess:  # its parent counts it now
            continue
    return total


def keeps_order(feed: Feed) -> bool:
    """Whether one and two threads or processes give the same batches, bit for bit."""
    one, two = (list(islice(feed(number, 1), 6)) for number in (1, 2))
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def summary(measured: dict[str, list[Measured]], order: dict[str, bool]) -> str:
    lines = [
        "| feed | images/s | CPU µs per image | of it in the training process | the same batches with one and two |",
        "|---|---|---|---|---|",
    ]
    for name, runs in measured.items():
        rate, cost, here = (statistics.median(values) for values in zip(*runs, strict=True))
        spread = f"({min(run.rate for run in runs):.0f} to {max(run.rate for run in runs):.0f})"
        same = "yes" if order[name] else "no"
        lines.append(f"| {name} | {rate:.0f} {spread} | {cost:.0f} | {here:.0f} | {same} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(parse(FeedBenchmark, sys.argv[1:], "benchmark"))
