"""Parallel maps over a stream: in order, however long each item takes, and no further ahead than they say."""

import os
import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from fer.data.stream.ordered import AHEAD, in_processes, on_threads


class Sum:
    """Of a table's column ``x``, with the process that computed it."""

    def __call__(self, table: pa.Table) -> tuple[int, int]:
        return sum(table["x"].to_pylist()), os.getpid()


def test_threads_keep_the_order_and_stay_a_few_items_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    def slow(number: int) -> int:
        time.sleep(0.01 if number % 3 == 0 else 0)
        return number

    results = on_threads(slow, items(), threads=6)
    assert next(results) == 0
    assert len(taken) == AHEAD * 6 + 1
    assert list(results) == list(range(1, 40))


def test_more_than_four_threads_compute() -> None:
    """As many as are asked for: Ray Data's own are at most four."""
    all_at_once = threading.Barrier(12)
    list(on_threads(lambda _: all_at_once.wait(60), range(12), threads=12))


def test_an_error_comes_in_its_place() -> None:
    results = on_threads(lambda number: 1 // number, [2, 1, 0, 1], threads=3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.slow
def test_processes_keep_the_order_of_slices_of_a_table() -> None:
    table = pa.table({"x": list(range(60))})
    found = list(in_processes(Sum(), (table.slice(start, 3) for start in range(0, 60, 3)), 2, pin_memory=False))
    assert [total for total, _ in found] == [3 * start + 3 for start in range(0, 60, 3)]
    processes = {process for _, process in found}
    assert len(processes) == 2
    assert os.getpid() not in processes
