"""The order of rows on each worker: a function of (seed, epoch, rank, world size), so a position is a row count.

A split is a list of row groups. Each epoch permutes them with its own seed and divides the sequence into one equal
segment per worker. A segment is read in windows of a few row groups, and the rows of each window are permuted again.
Ray Data's own file shuffle is neither reproducible from run to run nor resumable inside an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


def row_groups(dataset: ShardedDataset, split: str) -> list[RowGroup]:
    """Row groups of a split, in stored order."""
    shards = dataset.split(split).shards
    return [RowGroup(dataset.path(shard), i, rows) for shard in shards for i, rows in enumerate(shard.row_groups)]


def training_windows(
    groups: Sequence[RowGroup], *, seed: int, epoch: int, rank: int, world_size: int, rows: int, skip: int = 0
) -> Iterator[Window]:
    """The windows of an epoch on one worker: ``rows`` rows, without the first ``skip``, which were consumed before.

    Every worker must pass the same ``rows``, at most 1/``world_size`` of all. No row is on two workers.
    """
    total = sum(group.rows for group in groups)
    assert 0 <= skip <= rows <= total // world_size, (skip, rows, total, world_size)
    order = np.random.default_rng((seed, epoch)).permutation(len(groups))
    first = rank * (total // world_size)
    segment = _select([groups[i] for i in order], first, first + total // world_size)
    yield from _windows(segment, rows, skip, lambda index: (seed, epoch, rank, index))


def sequential_windows(
    groups: Sequence[RowGroup], *, rank: int, world_size: int, limit: int | None = None
) -> Iterator[Window]:
    """One worker's part of a split, or of its first ``limit`` rows, in stored order; each row is on one worker."""
    total = sum(group.rows for group in groups)
    total = total if limit is None else min(total, limit)
    first, last = rank * total // world_size, (rank + 1) * total // world_size
    yield from _windows(_select(groups, first, last), last - first, 0, lambda index: None)


def _select(groups: Sequence[RowGroup], first: int, last: int) -> list[RowRange]:
    """The ranges of rows ``first`` to ``last`` of the concatenated groups."""
    ranges, at = [], 0
    for group in groups:
        start, stop = max(first - at, 0), min(last - at, group.rows)
        if start < stop:
            ranges.append(RowRange(group, start, stop))
        at += group.rows
    return ranges


def _windows(ranges, rows, skip, seed_of) -> Iterator[Window]:  # type: ignore[no-untyped-def]
    at = 0
    for index in range(0, len(ranges), WINDOW_GROUPS):
        chosen = tuple(ranges[index : index + WINDOW_GROUPS])
        held = sum(part.stop - part.start for part in chosen)
        start, stop = max(skip - at, 0), min(rows - at, held)
        if start < stop:
            yield Window(chosen, start, stop - start, seed_of(index))
        at += held
