"""The process group of one trainer and the engines, apart from torch's default one: gloo on CPUs, NCCL on GPUs.

NCCL refuses two processes on one GPU. If a trainer and an engine share one, tensors go through the host's memory, and
over gloo.

An engine can die or hang in the middle of a broadcast, and NCCL does not tell the others. So every broadcast has a
deadline. After it the communicator is aborted, without waiting for its peers, and a new one takes its place. An abort
leaves a key in the group's store, which the others check while they wait.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

POLL_SECONDS = 1.0
"""How often a broadcast that is waited for looks whether its peers have failed."""
ABORTED = "aborted"
"""The store's key of an abort."""
WAS_ABORTED = "a weight transfer was aborted"
ABORT_SECONDS = 30.0
"""Longest wait for an abort; what is left of it ends with the process."""


class TransferError(RuntimeError):
    """A broadcast that did not finish in time, or whose peers are gone. The communicator can't be used any more."""


class Deadline:
    """A moment, ``seconds`` from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._end = seconds, time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds until then; at least 0."""
        return max(0.0, self._end - time.monotonic())


class Communicator:
    """Broadcasts from rank 0, each on a thread of its own: whatever blocks there, the caller goes on."""

    def __init__(
        self,
        store: Any,
        rank: int,
        world_size: int,
        device: torch.device,
        seconds: float,
        through_host: bool = False,
    ) -> None:
        """``seconds``: after which gloo and NCCL give up by themselves; at least a broadcast's deadline."""
        self.store = store.clone()
        """A connection of its own: the group's may be busy."""
        store, timeout = dist.PrefixStore("weights", store), timedelta(seconds=seconds)
        self.rank, self.device, self.through_host = rank, device, through_host
        self.aborted = threading.Event()
        self.backend = torch.get_device_module(device)
        self.stream = self.backend.Stream()
        """Broadcasts have a stream of their own, so that the caller's goes on meanwhile."""
        self.group: Any
        self.is_nccl = device.type != "cpu" and not through_host
        if not self.is_nccl:
            self.group = dist.ProcessGroupGloo(store, rank, world_size, timeout)
            return
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timeout
        with _without_watchdog():
            self.group = dist.ProcessGroupNCCL(store, rank, world_size, options)

    def broadcast(self, tensor: Tensor, deadline: Deadline, check: Callable[[], None] = lambda: None) -> None:
        """Broadcast ``tensor`` in place: `start` and `wait`."""
        self.wait(self.start(tensor, deadline), deadline, check)

    def start(self, tensor: Tensor, deadline: Deadline) -> Future[Any]:
        """Start to broadcast ``tensor`` in place. It must not be changed or freed before `wait` has returned.

        Raises TransferError if the communicator was aborted.
        """
        if self.aborted.is_set():
            raise TransferError("the connection for weight transfers was aborted")
        self.stream.wait_stream(self.backend.current_stream())
        return _start(self._broadcast, tensor, deadline)

    def wait(self, future: Future[Any], deadline: Deadline, check: Callable[[], None] = lambda: None) -> None:
        """Wait for a broadcast. ``check`` may raise; it is called every second meanwhile.

        Raises TransferError, or what ``check`` raised, and aborts the communicator. Another thread or process of the
        group may abort it, too.
        """
        try:
            while not _is_done(future, min(POLL_SECONDS, deadline.remaining)):
                check()
                if self.aborted.is_set() or self._is_aborted_elsewhere():
                    raise TransferError(WAS_ABORTED)
                if not deadline.remaining:
                    raise TransferError(f"a weight transfer was not finished within {deadline.seconds:g} s")
            future.result()
        except TransferError:
            self.abort()
            raise
        except Exception as error:
            self.abort()
            check()
            raise TransferError(f"a weight transfer failed: {(str(error) or repr(error)).splitlines()[0]}") from error
        self.backend.current_stream().wait_stream(self.stream)

    def _broadcast(self, tensor: Tensor, deadline: Deadline) -> None:
        self.backend.set_device(self.device)  # this thread's own would be the first GPU
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        options.timeout = timedelta(seconds=max(deadline.remaining, 0.001))
        with self.backend.stream(self.stream):
            sent = self._staged(tensor) if self.through_host else tensor
            self.group.broadcast([sent], options).wait()
            if sent is not tensor and self.rank:
                tensor.copy_(sent)

    def _staged(self, tensor: Tensor) -> Tensor:
        """A tensor in the host's memory: with the values of rank 0's, for those of the others."""
        return torch.empty_like(tensor, device="cpu") if self.rank else tensor.cpu()

    def _is_aborted_elsewhere(self) -> bool:
        try:
            return bool(self.store.check([ABORTED]))
        except dist.DistError as error:
            raise TransferError("the trainer that sends the weights is gone") from error

    def abort(self) -> None:
        """End all operations, here and at the peers, without waiting for these."""
        if not self.aborted.is_set():
            _start(self.store.set, ABORTED, "")
            self.close()

    def close(self) -> None:
        """End all operations here, without waiting for the peers. (`shutdown` would wait: PyTorch PR 119250.)"""
        if self.aborted.is_set():
            return
        self.aborted.set()
        if self.is_nccl:
            _is_done(_start(self.group.abort), ABORT_SECONDS)
        _start(self._drop)

    def _drop(self) -> None:
        """Let go of the group, on a thread: the destructor of gloo's waits for the operation that is stuck."""
        self.group = None


def _start(call: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Call a function on a daemon thread, which the process does not wait for at its end."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _is_done(future: Future[Any], seconds: float) -> bool:
    """Wait at most ``seconds`` for a call."""
    finished = threading.Event()
    future.add_done_callback(lambda _: finished.set())
    return finished.wait(seconds)


@contextmanager
def _without_watchdog() -> Iterator[None]:
    """A process group made here has no watchdog, which would end the process after an error or a time-out.

    With this variable, `wait` blocks until an operation is done or failed, and raises. It is read at construction.
    """
    name = "TORCH_NCCL_BLOCKING_WAIT"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
