"""Records the stages of random configurations of the space `fusion`, for `benchmarks.search.replay`.

    python -m benchmarks.search.record_fusion --minutes 60

Trains the dynamics model on drawn sequences with the training loop of `fer dynamics`, in this process and on one core,
and appends a line to the table for each configuration. It continues where it stopped.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from benchmarks.search.record import cpu_ms, record_points, sweep_of
from benchmarks.search.table import SPACES, Recorded
from benchmarks.without_ray import untracked
from fer.dynamics.options import STAGES
from fer.options import Options, parse

if TYPE_CHECKING:
    from fer.tuning.space import Point
    from fer.tuning.sweep import Sweep


class FusionRecordOptions(Options):
    """Record the stages of random configurations."""

    table: str = Field(str(SPACES["fusion"].file), description="File to append to")
    configurations: int = Field(100, ge=1, description="Stop when the table has so many")
    minutes: float = Field(60, gt=0, description="Stop after so many minutes, when the configuration in work is done")
    videos: int = Field(40, ge=2, description="Drawn sequences, of another person each")
    frames: int = Field(6, ge=1, description="Frames of each")
    epochs: int = Field(3, ge=1, description="Epochs of each stage")


def main(options: FusionRecordOptions) -> None:
    from fer.dynamics.synthetic import write_sequences

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_sequences(root / "frames", options.videos, options.frames, jitter=0.01)
        fixed = {"pretrained": False, "threads": 1, "device": "cpu", "val_split": 0.3}
        fixed |= {f"stage_{stage}": {"epochs": options.epochs, "patience": 0} for stage in STAGES}
        sweep = sweep_of("fusion", str(root / "frames"), fixed)
        data = sweep.trainable.prepare_data(sweep.job_config(sweep.space.default))
        record_points(sweep, Path(options.table), options.configurations, options.minutes, partial(record, sweep, data))


def record(sweep: Sweep, data: dict[str, Any], point: Point) -> Recorded:
    """Train at a point: the best validation score and the CPU seconds of each stage, and the latency of the network."""
    from fer.dynamics.frames import read_frames
    from fer.dynamics.stage_folders import save_initial_weights
    from fer.dynamics.train import DynamicsTrainer
    from fer.training.worker import Worker

    config, scores = sweep.job_config(point), {stage: float("-inf") for stage in STAGES}
    clock = [time.process_time()]

    def report(metrics: dict[str, Any], checkpoint: object) -> None:
        stage, score = metrics["stage"], sweep.trainable.score(metrics)
        scores[stage] = max(scores[stage], score)
        if metrics["epoch"] == config.stage(stage).epochs:
            clock.append(time.process_time())

    frames = read_frames(config.data)[0]
    of_split = {
        name: [frame for frame, split in zip(frames, data["splits"], strict=True) if split == name]
        for name in ("train", "val")
    }
    runs = dict.fromkeys(STAGES, untracked())
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        save_initial_weights(folder, config)
        worker = Worker.start(config, report)
        DynamicsTrainer(config, of_split["train"], of_split["val"], worker, folder, runs).fit(None)
    seconds = [round(after - before, 2) for before, after in pairwise(clock)]
    network, example = sweep.trainable.network(config, data)
    found = [round(score, 4) for score in scores.values()]
    return Recorded(point=point, scores=found, cpu_seconds=seconds, latency=cpu_ms(network, example))


if __name__ == "__main__":
    main(parse(FusionRecordOptions, sys.argv[1:], "benchmark"))
