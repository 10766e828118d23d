"""Ferry's feeds: decoding on threads, in processes, or in Ray's tasks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from benchmarks.train_feed import Feed, FeedBenchmark

NAMES = {"worker": "Ferry, threads", "processes": "Ferry, processes", "remote": "Ferry, Ray tasks"}


def ferry_feeds(shards: Path, options: FeedBenchmark) -> dict[str, Feed]:
    import ray

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return {name: partial(batches, shards, options, decode) for decode, name in NAMES.items()}


def batches(shards: Path, options: FeedBenchmark, decode: Any, parallel: int, epochs: int) -> Iterator[Tensor]:
    from fer.classifier.data_loader import FaceDataLoader
    from fer.classifier.model import new_spec
    from fer.classifier.options import TrainConfig
    from fer.data.manifest import ShardedDataset

    dataset = ShardedDataset(str(shards))
    config = TrainConfig(
        data=str(shards),
        img_size=options.img_size,
        batch_size=options.batch_size,
        auto_augment=options.auto_augment,
        epochs=epochs,
        decode=decode,
        decode_threads=parallel,
    )
    loader = FaceDataLoader(dataset, config, new_spec(config, dataset.manifest.space), rank=0, world_size=1)
    for batch in loader.train_batches(0, [(1, 0)]):
        yield batch["pixels"]
