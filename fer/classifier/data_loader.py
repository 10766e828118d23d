"""The classifier's data loader: batches of tensors from shards, shuffled for training or in stored order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from fer.classifier.augment import Augment
from fer.classifier.options import TrainConfig
from fer.classifier.preprocess import to_input
from fer.classifier.spec import ModelSpec
from fer.data.images import decode_rgb
from fer.data.manifest import ShardedDataset
from fer.data.stream.ordered import in_processes, on_threads
from fer.data.stream.reader import ROW_SEED, iter_tables, read_window
from fer.data.stream.sampler import Window, row_groups, sequential_windows, training_windows
from fer.labels import map_labels

COLUMNS = ("image", "label", "votes", "valence", "arousal")
PIXELS = "pixels"

Batch = dict[str, Tensor]
"""pixels (N, side, side, C) uint8; label (N,) int64; affect (N, 2) float32, NaN if unlabelled; optionally votes
(N, classes) float32."""


class DecodeImages:
    """Encoded images to an array (N, side, side, C) uint8, augmented in training."""

    def __init__(self, spec: ModelSpec, augment: Augment | None) -> None:
        self.spec, self.augment = spec, augment

    def __call__(self, table: pa.Table) -> np.ndarray:
        images = (decode_rgb(image) for image in table["image"].to_pylist())
        if self.augment is None:
            return np.stack([to_input(image, self.spec) for image in images])
        return np.stack(
            [self.augment(image, seed) for image, seed in zip(images, table[ROW_SEED].to_pylist(), strict=True)]
        )


class Collate:
    """An Arrow table to a Batch. Called on several threads, or in several processes."""

    def __init__(self, spec: ModelSpec, decode: DecodeImages, classes: dict[str, int], with_votes: bool) -> None:
        self.spec, self.decode, self.classes, self.with_votes = spec, decode, classes, with_votes

    def __call__(self, batch: pa.Table) -> Batch:
        pixels = self._decoded(batch) if PIXELS in batch.column_names else self.decode(batch)
        labels = torch.tensor([self.classes[label] for label in batch["label"].to_pylist()])
        affect = np.stack([batch[name].to_numpy().astype(np.float32) for name in ("valence", "arousal")], axis=1)
        tensors = {"pixels": torch.from_numpy(pixels), "label": labels, "affect": torch.from_numpy(affect)}
        if self.with_votes:
            hard = torch.nn.functional.one_hot(labels, len(self.spec.labels)).float()
            votes = batch["votes"].to_pylist()
            tensors["votes"] = torch.stack([torch.tensor(v) if v else h for v, h in zip(votes, hard, strict=True)])
        return tensors

    def _decoded(self, batch: pa.Table) -> np.ndarray:
        """The pixels (N, side, side, C) of a table of `_load_decoded`."""
        shape = self.spec.options.img_size, self.spec.options.img_size, self.spec.options.in_chans
        size = math.prod(shape)
        parts = [
            np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * size, chunk.offset * size)
            for chunk in batch[PIXELS].chunks
        ]
        return np.concatenate(parts).reshape(-1, *shape)


def compact(table: pa.Table) -> pa.Table:
    """A copy of a slice, without the rest of the table: pickling a slice sends all of it."""
    return table.take(np.arange(len(table)))


def pinned(batch: Batch) -> Batch:
    """The batch in memory that a GPU reads by itself, while this process goes on."""
    return {name: tensor.pin_memory() for name, tensor in batch.items()}


class FaceDataLoader:
    """Batches of a sharded data set for one worker; with ``pin_memory``, for a copy to a GPU in the background."""

    def __init__(
        self,
        dataset: ShardedDataset,
        config: TrainConfig,
        spec: ModelSpec,
        rank: int,
        world_size: int,
        pin_memory: bool = False,
    ) -> None:
        self.dataset, self.config, self.spec, self.rank, self.world_size = dataset, config, spec, rank, world_size
        self.pin_memory = pin_memory
        mapping = map_labels(dataset.manifest.space, spec.space)
        self.classes = {label: spec.space.index(mapped) for label, mapped in mapping.items() if mapped is not None}
        self.groups = row_groups(dataset, "train")

    @property
    def batches_per_epoch(self) -> int:
        """Full batches per worker and epoch. The rows of the remainder are dropped, others in each epoch."""
        return self.batches_left([(self.world_size, 0)])

    def batches_left(self, consumed: Sequence[tuple[int, int]]) -> int:
        """Full batches per worker in the rest of an epoch (see `train_batches`)."""
        *earlier, (_, skip) = consumed
        rows = self.dataset.split("train").rows - sum(workers * each for workers, each in earlier)
        return (rows // self.world_size - skip) // self.config.batch_size

    def train_batches(self, epoch: int, consumed: Sequence[tuple[int, int]]) -> Iterator[Batch]:
        """Batches from a position in ``epoch`` to the last epoch's end, prefetched across epochs.

        ``consumed`` is the position: pairs (workers, rows that each of them consumed), of which the last is that of the
        present number of workers.
        """
        windows = (
            window
            for number in range(epoch, self.config.epochs)
            for window in self.train_windows(number, consumed if number == epoch else [(self.world_size, 0)])
        )
        return self._batches(windows, Augment(self.config, self.config))

    def train_windows(self, epoch: int, consumed: Sequence[tuple[int, int]]) -> Iterator[Window]:
        """The windows of the rest of an epoch: the rows of its full batches."""
        *earlier, (_, skip) = consumed
        return training_windows(
            self.groups,
            seed=self.config.seed,
            epoch=epoch,
            rank=self.rank,
            world_size=self.world_size,
            rows=skip + self.batches_left(consumed) * self.config.batch_size,
            skip=skip,
            earlier=earlier,
        )

    def val_batches(self) -> Iterator[Batch]:
        """This worker's shard of the validation split, in stored order."""
        windows = sequential_windows(row_groups(self.dataset, "val"), rank=self.rank, world_size=self.world_size)
        return self._batches(windows, None)

    def _batches(self, windows: Iterator[Window], augment: Augment | None) -> Iterator[Batch]:
        decode = DecodeImages(self.spec, augment)
        load = (
            partial(_load_decoded, decode) if self.config.decode == "remote" else partial(read_window, columns=COLUMNS)
        )
        collate = Collate(self.spec, decode, self.classes, self.config.soft_labels)
        size, processes = self.config.batch_size, self.config.decode == "processes" and augment is not None
        return collated(windows, load, collate, size, self.config.decode_threads, processes, self.pin_memory)


def collated(
    windows: Iterator[Window],
    load: Callable[[Window], pa.Table],
    collate: Callable[[pa.Table], Batch],
    batch_size: int,
    parallel: int,
    processes: bool,
    pin_memory: bool,
) -> Iterator[Batch]:
    """The windows' rows as batches, in order, collated on ``parallel`` threads or in processes."""
    tables = iter_tables(windows, load, batch_size=batch_size)
    if processes:
        return in_processes(collate, map(compact, tables), parallel, pin_memory)
    return on_threads((lambda table: pinned(collate(table))) if pin_memory else collate, tables, parallel)


def _load_decoded(decode: DecodeImages, window: Window) -> pa.Table:
    """Remote decoding: a window with raw input pixels instead of encoded images."""
    table = read_window(window, COLUMNS)
    pixels = decode(table)
    raw = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(pixels[0].nbytes), len(pixels), [None, pa.py_buffer(np.ascontiguousarray(pixels))]
    )
    return table.drop_columns(["image"]).append_column(PIXELS, raw)
