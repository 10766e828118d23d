"""Reading windows: the planned rows, by path or URI, reproducible by seed."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fer.data.manifest import ShardedDataset
from fer.data.stream import reader
from fer.data.stream.reader import ROW_SEED, divide_into_streams, read_window
from fer.data.stream.sampler import RowGroup, RowRange, Window, row_groups, sequential_windows, training_windows


def stored_paths(dataset: ShardedDataset) -> list[str]:
    return [
        path
        for shard in dataset.split("train").shards
        for path in pq.read_table(dataset.path(shard), columns=["path"])["path"].to_pylist()
    ]


def test_sequential_windows_keep_the_stored_order(small_shards: Path) -> None:
    dataset = ShardedDataset(str(small_shards))
    windows = sequential_windows(row_groups(dataset, "train"), rank=0, world_size=1)
    tables = [read_window(window, ["path"]) for window in windows]
    assert [path for table in tables for path in table["path"].to_pylist()] == stored_paths(dataset)
    assert all(seed == 0 for table in tables for seed in table[ROW_SEED].to_pylist())


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_an_epoch_is_a_permutation_with_a_seed_for_each_row(small_shards: Path, prefix: str) -> None:
    dataset = ShardedDataset(prefix + str(small_shards))
    groups = row_groups(dataset, "train")
    rows = sum(group.rows for group in groups)

    def epoch(number: int) -> list[tuple[str, int]]:
        windows = training_windows(groups, seed=3, epoch=number, rank=0, world_size=1, rows=rows)
        tables = [read_window(window, ["path"]) for window in windows]
        return [pair for t in tables for pair in zip(t["path"].to_pylist(), t[ROW_SEED].to_pylist(), strict=True)]

    first, again, second = epoch(0), epoch(0), epoch(1)
    assert first == again
    assert [path for path, _ in first] != [path for path, _ in second]
    assert sorted(path for path, _ in first) == sorted(stored_paths(ShardedDataset(str(small_shards))))
    assert len({seed for _, seed in first + second}) == 2 * rows


@pytest.mark.parametrize("batch_size", [1, 7, 16, 100])
def test_only_the_last_stream_may_end_in_a_smaller_batch(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "WINDOWS_PER_STREAM", 2)
    sizes = [10, 3, 12, 1, 1, 16, 5, 30, 2, 2]
    windows = [Window((RowRange(RowGroup("a", i, rows), 0, rows),), 0, rows, (i,)) for i, rows in enumerate(sizes)]
    streams = list(divide_into_streams(windows, batch_size))
    rows = [sum(window.rows for window in stream) for stream in streams]
    assert all(each % batch_size == 0 for each in rows[:-1])
    assert sum(rows) == sum(sizes)
    used = [(w.seed, at) for stream in streams for w in stream for at in range(w.skip, w.skip + w.rows)]
    assert used == [(w.seed, at) for w in windows for at in range(w.rows)]
    assert all(len(stream) >= 2 for stream in streams[:-1])


def test_a_relative_path_is_resolved_once(small_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_shards.parent)
    assert ShardedDataset(small_shards.name).root == str(small_shards)
