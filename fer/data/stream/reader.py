"""Streaming rows from shards with Ray Data: encoded bytes in Arrow blocks, in the order that the sampler sets.

Ray's tasks read the windows, a few ahead of training; the training worker decodes and augments in its collate function,
on a few threads. On 2 cores this feeds faster than decoding in tasks: encoded rows are smaller to move.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from ray.data import Datasource, ExecutionResources, ReadTask
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata
from ray.data.collate_fn import ArrowBatchCollateFn

from fer.data.stream.sampler import Window

CPUS_PER_READER = 0.25
"""What a reading task reserves: reading is mostly waiting. A job leaves this much for each training worker."""

WINDOWS_PER_STREAM = 1024
"""Windows in one Ray Data execution: a long one costs memory in its planner, a short one a pause between two."""

BYTES_AHEAD = 256 * 2**20
"""Rows read ahead for each worker, in bytes of Ray's object store."""

BLOCK_BYTES = 32 * 2**20
"""Largest block; Ray Data reserves room for several, which its default of 128 MiB would not leave."""

ROW_SEED = "row_seed"
"""Column of int64: each row's random key, which follows from the window's seed, and all augmentation from it."""


def read_window(window: Window, columns: Sequence[str]) -> pa.Table:
    """A window's rows as an Arrow table with the given columns and ``key``."""
    tables = []
    for part in window.ranges:
        with fsspec.open(part.group.path, "rb") as file:
            table = pq.ParquetFile(file).read_row_group(part.group.index, columns=list(columns))
        tables.append(table.slice(part.start, part.stop - part.start))
    table = pa.concat_tables(tables)
    keys = np.zeros(len(table), np.int64)
    if window.seed is not None:
        random = np.random.default_rng(window.seed)
        keys = random.integers(2**62, size=len(table))
        table = table.take(random.permutation(len(table)))
    return table.append_column(ROW_SEED, pa.array(keys)).slice(window.skip, window.rows)


class Throttle(ExecutionCallback):
    """Slows Ray Data's control loop to ten rounds a second.

    While its output is full, which with training as the consumer is nearly always, the loop runs without a pause:
    on 2 cores it took one of them whole, and training ran at a quarter of its speed.
    """

    def on_execution_step(self, executor: object) -> None:
        time.sleep(0.1)


class WindowDatasource(Datasource):
    """A Ray Data source with one reading task for each window."""

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


def iter_batches(
    windows: Iterator[Window],
    load: Callable[[Window], pa.Table],
    collate: ArrowBatchCollateFn,
    *,
    batch_size: int,
    threads: int,
) -> Iterator[Any]:
    """Collated batches of the windows' rows, in order, ``threads`` batches ahead; only the last may be short.

    ``load`` runs in Ray's tasks, ``collate`` on threads of this process.
    """
    while chunk := list(islice(windows, WINDOWS_PER_STREAM)):
        dataset = ray.data.read_datasource(
            WindowDatasource(chunk, load),
            override_num_blocks=len(chunk),
            num_cpus=CPUS_PER_READER,
            concurrency=min(2, len(chunk)),
        )
        context = dataset.context
        context.execution_options.preserve_order = True
        context.target_max_block_size = BLOCK_BYTES
        context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=BYTES_AHEAD)
        context.custom_execution_callback_classes = [Throttle]
        context.enable_progress_bars = False
        yield from dataset.iter_torch_batches(batch_size=batch_size, prefetch_batches=threads, collate_fn=collate)
