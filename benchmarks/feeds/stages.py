"""CPU time of the stages of a feed, in one thread, and the speed on more cores that follows from it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2

if TYPE_CHECKING:
    from benchmarks.train_feed import FeedBenchmark, Measured

PARALLEL = ("imdecode", "resize", "warpAffine", "LUT", "cvtColor")
"""OpenCV's functions, which release the interpreter lock."""
IMAGES = 256
ROW_SEED = "row_seed"


class Costs(NamedTuple):
    """CPU microseconds per image, of one thread."""

    read: float
    decode: float
    policy: float
    """AutoAugment."""
    warp: float
    """Flip, rotation, zoom, shift and tone."""
    batch: float
    """The tensors of a batch."""
    locked: float
    """Of all these: under the interpreter's lock, or under that of AutoAugment."""

    @property
    def collate(self) -> float:
        """All but reading, which Ray does elsewhere."""
        return self.decode + self.policy + self.warp + self.batch

    def table(self) -> str:
        names = ("read", "decode", "AutoAugment", "warp and tone", "batch", "of all but reading, locked")
        rows = [f"| {name} | {value:.0f} |" for name, value in zip(names, self, strict=True)]
        return "\n".join(["| stage | CPU µs per image |", "|---|---|", *rows])


def stage_costs(shards: Path, options: FeedBenchmark) -> Costs:
    """Medians over five passes."""
    from fer.classifier.augment import Augment
    from fer.classifier.data_loader import COLUMNS, Collate, DecodeImages
    from fer.classifier.model import new_spec
    from fer.classifier.options import TrainConfig
    from fer.data.images import decode_rgb
    from fer.data.manifest import ShardedDataset
    from fer.data.stream.reader import read_window
    from fer.data.stream.sampler import row_groups, training_windows

    dataset = ShardedDataset(str(shards))
    config = TrainConfig(data=str(shards), img_size=options.img_size, auto_augment=options.auto_augment)
    spec = new_spec(config, dataset.manifest.space)
    rows = dataset.split("train").rows
    windows = list(training_windows(row_groups(dataset, "train"), seed=0, epoch=0, rank=0, world_size=1, rows=rows))
    plain = Augment(config.model_copy(update={"auto_augment": False}), config)
    full = Augment(config, config)
    classes = {label: index for index, label in enumerate(dataset.manifest.labels)}
    collate = Collate(spec, DecodeImages(spec, full), classes, with_votes=False)
    images = Images(windows, rows, partial(read_window, columns=COLUMNS), decode_rgb, plain, full, collate)
    return Costs(*(statistics.median(values) for values in zip(*(images.costs() for _ in range(5)), strict=True)))


class Images(NamedTuple):
    """Ferry's functions of the stages, and the windows that they read."""

    windows: list[Any]
    rows: int
    read: Callable[[Any], Any]
    decode: Callable[[bytes], Any]
    plain: Callable[[Any, int], Any]
    full: Callable[[Any, int], Any]
    collate: Callable[[Any], Any]

    def costs(self) -> list[float]:
        """One pass over some images: the values of `Costs`."""
        reading, tables = timed(lambda: [self.read(window) for window in self.windows])
        batches = [tables[0].slice(start, 64) for start in range(0, IMAGES, 64)]
        seeds = tables[0][ROW_SEED][:IMAGES].to_pylist()
        decoding, images = timed(lambda: [self.decode(each) for each in tables[0]["image"][:IMAGES].to_pylist()])
        warping, _ = timed(lambda: [self.plain(image, seed) for image, seed in zip(images, seeds, strict=True)])
        both, _ = timed(lambda: [self.full(image, seed) for image, seed in zip(images, seeds, strict=True)])
        with parallel_seconds() as spent:
            whole, _ = timed(lambda: [self.collate(batch) for batch in batches])
        reading *= IMAGES / self.rows
        parts = (reading, decoding, both - warping, warping, max(0.0, whole - decoding - both), whole - sum(spent))
        return [part / IMAGES * 1e6 for part in parts]


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this thread, and the result."""
    started = time.thread_time()
    result = function()
    return time.thread_time() - started, result


@contextmanager
def parallel_seconds() -> Iterator[list[float]]:
    """CPU seconds of each call of OpenCV inside the block."""
    spent: list[float] = []
    originals = {name: getattr(cv2, name) for name in PARALLEL}

    def measured(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seconds, result = timed(lambda: function(*arguments, **options))
            spent.append(seconds)
            return result

        return call

    for name, function in originals.items():
        setattr(cv2, name, measured(function))
    try:
        yield spent
    finally:
        for name, function in originals.items():
            setattr(cv2, name, function)


def predicted(costs: Costs, measured: dict[str, list[Measured]], cores: int) -> str:
    """The images per second on ``cores`` cores: all costs shared by the cores, but for what one thread must do."""
    lines = [
        f"| on {cores} cores | linear | at most, by what is not parallel | predicted | of linear |",
        "|---|---|---|---|---|",
    ]
    for name, runs in measured.items():
        cost, here = (statistics.median(values) for values in list(zip(*runs, strict=True))[1:])
        serial = costs.locked if "threads" in name else here if "DALI" not in name else 0.0  # its threads need no lock
        linear, limit = cores / cost * 1e6, 1e6 / serial if serial else math.inf
        rate = min(linear, limit)
        lines.append(f"| {name} | {linear:.0f} | {limit:.0f} | {rate:.0f} | {rate / linear:.2f} |")
    return "\n".join(lines)
