"""Maps a function over a stream in parallel and in order: on threads of this process, or in processes beside it."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

AHEAD = 2
"""Results per thread or process that are computed before they are asked for."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Each item's ``function(item)``, in order. It pays for functions that release the interpreter lock."""
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > AHEAD * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int, pin_memory: bool
) -> Iterator[Result]:
    """Each item's ``function(item)``, in order, by PyTorch's DataLoader: tensors come through shared memory.

    The processes are forked from a server that has imported the function's module: this process has threads, which a
    fork of it would not have. ``pin_memory`` copies the tensors to memory that a GPU reads by itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([type(function).__module__])
    loader = DataLoader(
        _Results(function),
        batch_size=None,
        sampler=cast("Sampler[Any]", items),
        num_workers=processes,
        prefetch_factor=AHEAD,
        multiprocessing_context=context,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else it draws a number of the global one, on which weights and dropout depend
    )
    yield from loader


class _Results(Dataset[Any]):
    """The result of an item; PyTorch's word for the item is index."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __getitem__(self, item: Any) -> Any:
        return self.function(item)
