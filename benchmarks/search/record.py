"""Records learning curves of random configurations of the space `classifier_cpu`, for `benchmarks.search.replay`.

    python -m benchmarks.search.record --data fer2013.zip --minutes 60

Trains on a sample of a zip of images (train/CLASS/FILE.jpg) with the training loop of `fer train`, in this process and
on one core, and appends a line to the table for each configuration. It continues where it stopped: the order of the
configurations depends on the seed only.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from benchmarks.search.table import SPACES, Recorded, read_table
from benchmarks.without_ray import in_process, make_trainer
from fer.options import Options, parse

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fer.data.manifest import ShardedDataset
    from fer.tuning.space import Point
    from fer.tuning.sweep import Sweep


class RecordOptions(Options):
    """Record the learning curves of random configurations."""

    data: str = Field(description="Zip of images in train/CLASS")
    table: str = Field(str(SPACES["classifier_cpu"].file), description="File to append to")
    configurations: int = Field(240, ge=1, description="Stop when the table has so many")
    minutes: float = Field(60, gt=0, description="Stop after so many minutes, when the configuration in work is done")
    train_rows: int = Field(1000, ge=1, description="Training images")
    val_rows: int = Field(600, ge=1, description="Validation images")
    epochs: int = Field(9, ge=1, description="Epochs of each configuration")
    remeasure: bool = Field(False, description="Measure the CPU time per image of the table's configurations again")


def main(options: RecordOptions) -> None:
    table = Path(options.table)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = prepare_sample(options, Path(scratch))
        fixed = {"epochs": options.epochs, "warmup_epochs": 0.5, "threads": 1, "device": "cpu"}
        sweep = sweep_of("classifier_cpu", dataset.root, fixed)
        if options.remeasure:
            measured = [remeasured(sweep, dataset, recorded) for recorded in read_table(table)]
            table.write_text("".join(each.model_dump_json() + "\n" for each in measured))
            return
        record_points(sweep, table, options.configurations, options.minutes, partial(record, sweep, dataset))


def sweep_of(space: str, data: str, fixed: dict[str, Any]) -> Sweep:
    """A sweep over a space, with options that are the same for all trials."""
    from fer.tuning.options import TuneConfig
    from fer.tuning.sweep import plan_sweep

    return plan_sweep(TuneConfig(space=space, data=data, set=fixed), SPACES[space].space, {}, [])


def record_points(
    sweep: Sweep, table: Path, configurations: int, minutes: float, record: Callable[[Point], Recorded]
) -> None:
    """Append what ``record`` finds at the default and at random points that the table does not have."""
    from fer.tuning.search import sample_points

    deadline = time.monotonic() + 60 * minutes
    points = sample_points(sweep.space.params, [sweep.space.default], configurations, seed=0)
    known = [recorded.point for recorded in read_table(table)] if table.exists() else []
    for point in ({name: rounded(value) for name, value in point.items()} for point in points):
        if point in known:
            continue
        if time.monotonic() > deadline:
            break
        recorded = record(point)
        with table.open("a") as file:
            file.write(recorded.model_dump_json() + "\n")
        print(f"best score {max(recorded.scores):.3f}, {sum(recorded.cpu_seconds):.1f} CPU s", flush=True)


def prepare_sample(options: RecordOptions, root: Path) -> ShardedDataset:
    """Shards of a random sample of the zip's training images."""
    from fer.data.options import PrepareOptions
    from fer.data.prepare import prepare

    rows = options.train_rows + options.val_rows
    with zipfile.ZipFile(options.data) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("train/") and name.endswith(".jpg"))
        archive.extractall(root, random.Random(0).sample(names, rows))
    share = options.val_rows / rows
    return prepare(PrepareOptions(data=str(root / "train"), out=str(root / "shards"), val_split=share))


def record(sweep: Sweep, dataset: ShardedDataset, point: Point) -> Recorded:
    """Train at a point: the validation score and the CPU seconds of each epoch, and the latency of the network."""
    config = sweep.job_config(point)
    scores: list[float] = []
    clock = [time.process_time()]

    def report(metrics: dict[str, Any], checkpoint: object) -> None:
        scores.append(round(metrics["score"], 4))
        clock.append(time.process_time())

    with in_process():
        make_trainer(config, dataset, report).fit()
    seconds = [round(after - before, 2) for before, after in pairwise(clock)]
    network, example = sweep.trainable.network(config, {"data": dataset.root})
    return Recorded(point=point, scores=scores, cpu_seconds=seconds, latency=cpu_ms(network, example))


def remeasured(sweep: Sweep, dataset: ShardedDataset, recorded: Recorded) -> Recorded:
    network, example = sweep.trainable.network(sweep.job_config(recorded.point), {"data": dataset.root})
    return recorded.model_copy(update={"latency": cpu_ms(network, example)})


def cpu_ms(network: nn.Module, example: tuple[Tensor, ...], repeats: int = 30) -> float:
    """CPU milliseconds of a forward pass of one image on one core: other work disturbs them less than the time."""
    import torch

    torch.set_num_threads(1)
    network.eval()
    found = []
    with torch.inference_mode():
        for _ in range(repeats):
            started = time.process_time()
            network(*example)
            found.append(time.process_time() - started)
    return round(statistics.median(found[3:]) * 1e3, 3)


def rounded(value: Any) -> Any:
    """A float with four significant digits: what is trained is what the table says."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main(parse(RecordOptions, sys.argv[1:], "benchmark"))
