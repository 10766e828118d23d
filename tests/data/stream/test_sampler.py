"""The order of training rows: each row on one worker, reproducible, and resumable from any position."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fer.data.stream.sampler import RowGroup, Window, sequential_windows, training_windows

groups = st.lists(st.integers(1, 40), min_size=1, max_size=30).map(
    lambda sizes: [RowGroup("file", index, rows) for index, rows in enumerate(sizes)]
)
workers = st.integers(1, 4)


def rows_of(window: Window) -> list[tuple[int, int]]:
    """All rows of a window's ranges, of which its permutation selects ``window.rows``."""
    return [(part.group.index, row) for part in window.ranges for row in range(part.start, part.stop)]


def used_rows(window: Window) -> list[tuple[int, int]]:
    """The rows that a window's permutation selects."""
    order = np.random.default_rng(window.seed).permutation(len(rows_of(window)))
    return [rows_of(window)[at] for at in order[window.skip : window.skip + window.rows]]


@given(groups, workers, st.integers(0, 5), st.integers(0, 3))
def test_no_row_is_on_two_workers(groups, workers, seed, epoch) -> None:
    total = sum(group.rows for group in groups)
    seen: Counter[tuple[int, int]] = Counter()
    for rank in range(workers):
        rows = total // workers
        windows = list(training_windows(groups, seed=seed, epoch=epoch, rank=rank, world_size=workers, rows=rows))
        assert sum(window.rows for window in windows) == rows
        seen.update(row for window in windows for row in used_rows(window))
    assert not seen or max(seen.values()) == 1
    assert len(seen) == total // workers * workers


@given(groups, st.lists(st.tuples(workers, st.floats(0, 1)), max_size=3), workers)
def test_no_row_is_repeated_or_missing_when_the_number_of_workers_changes(groups, changes, last) -> None:
    total = left = sum(group.rows for group in groups)
    seen: Counter[tuple[int, int]] = Counter()
    earlier: list[tuple[int, int]] = []
    for workers, fraction in [*changes, (last, 1.0)]:
        rows = int(left // workers * fraction)
        for rank in range(workers):
            position = {"seed": 1, "epoch": 2, "rank": rank, "world_size": workers, "earlier": earlier}
            windows = list(training_windows(groups, rows=rows, **position))
            assert sum(window.rows for window in windows) == rows
            seen.update(row for window in windows for row in used_rows(window))
            late = training_windows(groups, rows=rows, skip=rows // 2, **position)
            assert [row for w in late for row in used_rows(w)] == [row for w in windows for row in used_rows(w)][
                rows // 2 :
            ]
        earlier, left = [*earlier, (workers, rows)], left - workers * rows
    assert not seen or max(seen.values()) == 1
    assert total - len(seen) == left < last


@given(groups, workers, st.data())
def test_skipping_rows_keeps_the_rest_of_the_epoch(groups, workers, data) -> None:
    total = sum(group.rows for group in groups)
    rows = total // workers
    skip = data.draw(st.integers(0, rows))
    arguments = {"seed": 1, "epoch": 2, "rank": workers - 1, "world_size": workers, "rows": rows}
    whole = [(w.seed, at) for w in training_windows(groups, **arguments) for at in range(w.skip, w.skip + w.rows)]
    rest = [
        (w.seed, at) for w in training_windows(groups, **arguments, skip=skip) for at in range(w.skip, w.skip + w.rows)
    ]
    assert rest == whole[skip:]


@given(groups, workers)
def test_sequential_windows_give_each_row_to_one_worker(groups, workers) -> None:
    shares = [list(sequential_windows(groups, rank=rank, world_size=workers)) for rank in range(workers)]
    rows = [row for share in shares for window in share for row in rows_of(window)]
    assert rows == [(group.index, row) for group in groups for row in range(group.rows)]
    assert all(window.skip == 0 for share in shares for window in share)


def test_epochs_and_seeds_differ() -> None:
    groups = [RowGroup("file", index, 10) for index in range(50)]
    orders = {
        tuple(
            part.group.index
            for window in training_windows(groups, seed=seed, epoch=epoch, rank=0, world_size=1, rows=500)
            for part in window.ranges
        )
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4
