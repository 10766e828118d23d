"""The order of rows on each worker: a function of (seed, epoch, rank, world size), so a position is a row count.

A split is a list of row groups. Each epoch permutes them with its own seed and divides the sequence into one equal
segment per worker. A segment is read in windows of a few row groups, and the rows of each window are permuted again.
Ray Data's own file shuffle is neither reproducible from run to run nor resumable inside an epoch.

If the number of workers changes within an epoch, the rows that are left are divided anew. The position is then a list:
each number of workers, and how many rows each of them consumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fer.data.manifest import ShardedDataset

WINDOW_GROUPS = 8
"""Row groups per window: with row groups of about 4 MB, a window has about 32 MB."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group of one Parquet file."""

    path: str
    index: int
    rows: int


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows ``start`` to ``stop`` of a row group."""

    group: RowGroup
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Window:
    """Ranges whose rows are read together and permuted; rows ``skip`` to ``skip + rows`` of them are used."""

    ranges: tuple[RowRange, ...]
    skip: int
    rows: int
    seed: tuple[int, ...] | None
    """Seed of the permutation and of the row seeds; None keeps the stored order."""

    def select(self, first: int, last: int) -> Window:
        """The window of rows ``first`` to ``last`` of those that this one uses."""
        assert 0 <= first < last <= self.rows, (first, last, self.rows)
        return replace(self, skip=self.skip + first, rows=last - first)


def row_groups(dataset: ShardedDataset, split: str) -> list[RowGroup]:
    """Row groups of a split, in stored order."""
    shards = dataset.split(split).shards
    return [RowGroup(dataset.path(shard), i, rows) for shard in shards for i, rows in enumerate(shard.row_groups)]


def training_windows(
    groups: Sequence[RowGroup],
    *,
    seed: int,
    epoch: int,
    rank: int,
    world_size: int,
    rows: int,
    skip: int = 0,
    earlier: Sequence[tuple[int, int]] = (),
) -> Iterator[Window]:
    """The windows of an epoch on one worker: ``rows`` rows, without the first ``skip``, which were consumed before.

    ``earlier`` has the part of the epoch before the number of workers changed, in pairs (workers, rows that each of
    them consumed); what it left is divided among the workers. Every worker must pass the same ``rows``, at most
    1/``world_size`` of what is left. No row is on two workers.
    """
    total = sum(group.rows for group in groups)
    left = total - sum(workers * consumed for workers, consumed in earlier)
    assert 0 <= skip <= rows <= left // world_size, (skip, rows, left, world_size)
    order = np.random.default_rng((seed, epoch)).permutation(len(groups))
    permuted = [groups[i] for i in order]

    def whole_share(rank: int, workers: int) -> Iterator[Window]:
        segment = _select(permuted, *_bounds(total, rank, workers))
        return _windows(segment, lambda index: (seed, epoch, rank, index))

    share: Callable[[int, int], Iterator[Window]] = whole_share
    for workers, consumed in earlier:
        share = _divider([window for each in range(workers) for window in cut(share(each, workers), consumed)])
    yield from cut(share(rank, world_size), skip, rows)


def sequential_windows(
    groups: Sequence[RowGroup], *, rank: int, world_size: int, limit: int | None = None
) -> Iterator[Window]:
    """One worker's part of a split, or of its first ``limit`` rows, in stored order; each row is on one worker."""
    total = sum(group.rows for group in groups)
    total = total if limit is None else min(total, limit)
    yield from _windows(_select(groups, *_bounds(total, rank, world_size)), lambda index: None)


def _bounds(total: int, rank: int, workers: int) -> tuple[int, int]:
    """The rows of one of the workers among which ``total`` rows are divided, in equal parts or with one more."""
    return rank * total // workers, (rank + 1) * total // workers


def _divider(windows: Sequence[Window]) -> Callable[[int, int], Iterator[Window]]:
    """A function of a worker and the number of workers: its share of the windows' rows."""
    total = sum(window.rows for window in windows)
    return lambda rank, workers: cut(windows, *_bounds(total, rank, workers))


def _select(groups: Sequence[RowGroup], first: int, last: int) -> list[RowRange]:
    """The ranges of rows ``first`` to ``last`` of the concatenated groups."""
    ranges, at = [], 0
    for group in groups:
        start, stop = max(first - at, 0), min(last - at, group.rows)
        if start < stop:
            ranges.append(RowRange(group, start, stop))
        at += group.rows
    return ranges


def _windows(ranges: Sequence[RowRange], seed_of: Callable[[int], tuple[int, ...] | None]) -> Iterator[Window]:
    for index in range(0, len(ranges), WINDOW_GROUPS):
        chosen = tuple(ranges[index : index + WINDOW_GROUPS])
        yield Window(chosen, 0, sum(part.stop - part.start for part in chosen), seed_of(index))


def cut(windows: Iterable[Window], first: int, last: float = math.inf) -> Iterator[Window]:
    """The windows of rows ``first`` to ``last`` of the concatenated windows."""
    at = 0
    for window in windows:
        start, stop = max(first - at, 0), int(min(last - at, window.rows))
        if start < stop:
            yield window.select(start, stop)
        at += window.rows
        if at >= last:
            return
