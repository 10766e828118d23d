"""Streams rows from shards with Ray Data: encoded images in Arrow blocks, in the sampler's order.

Ray tasks read windows of rows ahead of training; the training worker decodes and augments them, on threads of its own
or in processes beside it. On 2 cores this is faster than decoding in the tasks, because encoded rows are smaller to
transfer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import Datasource, ExecutionResources, ReadTask
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata

from fer.data.options import CPUS_PER_READER
from fer.data.shards import open_shard
from fer.data.stream.ordered import on_threads
from fer.data.stream.sampler import Window

WINDOWS_PER_STREAM = 1024
"""Windows per Ray Data execution: more cost memory in its planner, fewer add pauses between executions."""

BYTES_AHEAD = 256 * 2**20
"""Limit of the rows read ahead for each worker, in bytes of Ray's object store."""

BLOCK_BYTES = 32 * 2**20
"""Maximum block size. Ray Data reserves memory for several blocks, which its default of 128 MiB does not allow."""

ROW_SEED = "row_seed"
"""Column of int64: the seed of each row's augmentation, derived from the window's seed."""


def read_window(window: Window, columns: Sequence[str]) -> pa.Table:
    """The rows of a window as an Arrow table, with the given columns and ``row_seed``."""
    tables = []
    for part in window.ranges:
        with open_shard(part.group.path, pre_buffer=True) as file:
            table = file.read_row_group(part.group.index, columns=list(columns))
        tables.append(table.slice(part.start, part.stop - part.start))
    table = pa.concat_tables(tables)
    seeds = np.zeros(len(table), np.int64)
    if window.seed is not None:
        random = np.random.default_rng(window.seed)
        seeds = random.integers(2**62, size=len(table))
        table = table.take(random.permutation(len(table)))
    return table.append_column(ROW_SEED, pa.array(seeds)).slice(window.skip, window.rows)


Batch = TypeVar("Batch")


class Throttle(ExecutionCallback):
    """Limits Ray Data's control loop to ten iterations a second.

    The loop spins while its output buffer is full, which it nearly always is with training as the consumer. On 2 cores
    it occupied one of them, and training ran at a quarter of its speed.
    """

    def on_execution_step(self, executor: object) -> None:
        time.sleep(0.1)


class WindowDatasource(Datasource):
    """A Ray Data source with one read task per window."""

    def __init__(self, windows: Sequence[Window], load: Callable[[Window], pa.Table]) -> None:
        super().__init__()
        self.windows, self.load = windows, load

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        return [self._task(window) for window in self.windows]

    def _task(self, window: Window) -> ReadTask:
        load = self.load
        metadata = BlockMetadata(num_rows=window.rows, size_bytes=None, input_files=None, exec_stats=None)
        return ReadTask(lambda: [load(window)], metadata)


def divide_into_streams(windows: Iterable[Window], batch_size: int) -> Iterator[list[Window]]:
    """The windows of each Ray Data execution, WINDOWS_PER_STREAM or a few more, which hold whole batches.

    The last window of an execution is cut, and the next execution starts with the rest of it: if an execution ended in
    a smaller batch, all batches after it would depend on where the first execution began.
    """
    stream: list[Window] = []
    rows = 0
    for window in windows:
        stream.append(window)
        rows += window.rows
        surplus = rows % batch_size
        if len(stream) >= WINDOWS_PER_STREAM and surplus < window.rows:
            yield [*stream[:-1], window.select(0, window.rows - surplus)]
            stream = [window.select(window.rows - surplus, window.rows)] if surplus else []
            rows = surplus
    if stream:
        yield stream


def iter_tables(
    windows: Iterator[Window], load: Callable[[Window], pa.Table], *, batch_size: int
) -> Iterator[pa.Table]:
    """The windows' rows in order, in tables of ``batch_size``; only the last may be smaller.

    ``load`` runs in Ray tasks.
    """
    for stream in divide_into_streams(windows, batch_size):
        dataset = ray.data.read_datasource(
            WindowDatasource(stream, load),
            override_num_blocks=len(stream),
            num_cpus=CPUS_PER_READER,
            concurrency=min(2, len(stream)),
        )
        context = dataset.context
        context.execution_options.preserve_order = True
        context.target_max_block_size = BLOCK_BYTES
        context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=BYTES_AHEAD)
        context.custom_execution_callback_classes = [Throttle]
        context.enable_progress_bars = False
        yield from dataset.iter_batches(batch_size=batch_size, batch_format="pyarrow", prefetch_batches=2)


def iter_batches(
    windows: Iterator[Window],
    load: Callable[[Window], pa.Table],
    collate: Callable[[pa.Table], Batch],
    *,
    batch_size: int,
    threads: int,
) -> Iterator[Batch]:
    """The tables of `iter_tables`, collated on threads of this process: Ray Data's own are at most four."""
    return on_threads(collate, iter_tables(windows, load, batch_size=batch_size), threads)
