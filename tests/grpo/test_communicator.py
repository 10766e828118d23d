"""Broadcasts with a deadline: a peer that hangs, one that is gone, a call that never returns, and the next group."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from fer.grpo.communicator import Communicator, Deadline, TransferError, _without_watchdog

CPU = torch.device("cpu")
LARGE = 2**26
"""Bytes that no socket buffers: their sender waits for the receiver."""
PEER = """
import sys, time
from datetime import timedelta
import torch
import torch.distributed as dist
from fer.grpo.communicator import Communicator, Deadline
store = dist.TCPStore("127.0.0.1", int(sys.argv[1]), 2, is_master=False, timeout=timedelta(seconds=60))
communicator = Communicator(store, 1, 2, torch.device("cpu"), 60)
for size in map(int, sys.argv[2:]):
    communicator.broadcast(torch.empty(size, dtype=torch.uint8), Deadline(60))
print("received", flush=True)
time.sleep(600)
"""


def connect(*sizes: int) -> tuple[Communicator, subprocess.Popen[str]]:
    """A communicator, and a process at its other end that receives tensors of these sizes, and then hangs."""
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    command = [sys.executable, "-c", PEER, str(store.port), *map(str, sizes)]
    peer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return Communicator(store, 0, 2, CPU, 60), peer


@pytest.mark.slow
def test_a_peer_that_hangs_does_not_hold_the_sender() -> None:
    communicator, peer = connect(16, LARGE)
    try:
        for size in (16, LARGE):
            communicator.broadcast(torch.ones(size, dtype=torch.uint8), Deadline(60))
        assert peer.stdout is not None
        assert peer.stdout.readline() == "received\n"
        started = time.monotonic()
        with pytest.raises(TransferError, match=r"not finished within 2 s|failed"):
            communicator.broadcast(torch.ones(LARGE, dtype=torch.uint8), Deadline(2))
        communicator.abort()
        del communicator
        assert time.monotonic() - started < 50, "neither the abort nor the destructor waits for the peer"
        other, second = connect(16)
        try:
            other.broadcast(torch.ones(16, dtype=torch.uint8), Deadline(60))
        finally:
            second.kill()
    finally:
        peer.kill()


def test_a_dead_peer_is_noticed_before_the_deadline() -> None:
    communicator, peer = connect(16)
    communicator.broadcast(torch.ones(16, dtype=torch.uint8), Deadline(60))
    peer.kill()
    started = time.monotonic()
    with pytest.raises(TransferError):
        communicator.broadcast(torch.ones(LARGE, dtype=torch.uint8), Deadline(60))
    assert time.monotonic() - started < 50


class Blocking:
    """A process group whose broadcasts never return, as NCCL's with a dead peer."""

    def __init__(self) -> None:
        self.aborts = 0

    def broadcast(self, tensors: object, options: object) -> Blocking:
        return self

    def wait(self) -> None:
        threading.Event().wait()

    def abort(self) -> None:
        self.aborts += 1
        threading.Event().wait()


@pytest.fixture
def blocking() -> Communicator:
    communicator = Communicator.__new__(Communicator)
    communicator.device, communicator.aborted, communicator.group = CPU, threading.Event(), Blocking()
    communicator.through_host = communicator.is_nccl = False
    communicator.backend, communicator.stream = torch.cpu, torch.cpu.Stream()
    communicator.store = dist.HashStore()
    return communicator


def test_a_broadcast_that_never_returns_ends_at_its_deadline(blocking: Communicator) -> None:
    started = time.monotonic()
    with pytest.raises(TransferError, match=r"not finished within 0\.5 s"):
        blocking.broadcast(torch.ones(1), Deadline(0.5))
    assert 0.5 <= time.monotonic() - started < 30
    assert blocking.aborted.is_set()


def test_a_failure_elsewhere_ends_a_broadcast(blocking: Communicator) -> None:
    def fail() -> None:
        raise ConnectionError("the engine died")

    with pytest.raises(ConnectionError, match="the engine died"):
        blocking.broadcast(torch.ones(1), Deadline(60), fail)


@pytest.mark.parametrize("where", ["another thread", "another process"])
def test_an_abort_elsewhere_ends_a_broadcast(blocking: Communicator, where: str) -> None:
    aborting = blocking
    if where == "another process":  # which has the same store
        aborting = Communicator.__new__(Communicator)
        aborting.store, aborting.aborted, aborting.is_nccl = blocking.store, threading.Event(), False
    threading.Timer(0.1, aborting.abort).start()
    started = time.monotonic()
    with pytest.raises(TransferError, match="aborted"):
        blocking.broadcast(torch.ones(1), Deadline(60))
    assert time.monotonic() - started < 30


def test_a_trainer_that_is_gone_ends_the_broadcast(blocking: Communicator) -> None:
    server = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    blocking.store = dist.TCPStore("127.0.0.1", server.port, 2, is_master=False)
    del server
    with pytest.raises(TransferError, match="the trainer that sends the weights is gone"):
        blocking.broadcast(torch.ones(1), Deadline(60))


def test_nccl_is_made_without_a_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "TORCH_NCCL_BLOCKING_WAIT"
    for before in (None, "0"):
        monkeypatch.delenv(name, raising=False) if before is None else monkeypatch.setenv(name, before)
        with _without_watchdog():
            assert os.environ[name] == "1"
        assert os.environ.get(name) == before


def test_through_the_host_the_receivers_get_what_rank_0_sent() -> None:
    """As between a trainer and an engine on one GPU."""
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    received = torch.zeros(5)

    def engine() -> None:
        client = dist.TCPStore("127.0.0.1", store.port, 2, is_master=False, timeout=timedelta(seconds=60))
        Communicator(client, 1, 2, CPU, 60, through_host=True).broadcast(received, Deadline(60))

    thread = threading.Thread(target=engine)
    thread.start()
    sent = torch.arange(5.0)
    Communicator(store, 0, 2, CPU, 60, through_host=True).broadcast(sent, Deadline(60))
    thread.join(60)
    assert received.tolist() == sent.tolist() == [0, 1, 2, 3, 4]
