"""An engine that dies or hangs in the middle of a weight transfer: the trainer goes on, and connects again.

The engines are Ray actors with a real process group and a model of PyTorch in place of vLLM's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
import torch.distributed as dist
from torch import nn

from fer.errors import UserError
from fer.grpo import engine_pool
from fer.grpo.checksums import SyncReport, WeightLoader, checksum, compare_ranks
from fer.grpo.communicator import Communicator, Deadline, TransferError
from fer.grpo.engine_pool import EnginePool
from fer.grpo.rollout import EngineStats, Prompt, RolloutOutput
from fer.grpo.weight_sync import PolicyWeights, TensorSpec, receive_weights
from fer.training.worker import Worker

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SYNC_TIMEOUT = 20.0
BUCKET_BYTES = 16 * 2**20


class Layers(nn.Module):
    """Three weights of 20 MB, each a bucket of its own; ``load_weights`` is that of vLLM's models."""

    def __init__(self) -> None:
        super().__init__()
        for name in "abc":
            self.register_parameter(name, nn.Parameter(torch.zeros(5_000_000), requires_grad=False))

    def load_weights(self, weights: Sequence[tuple[str, torch.Tensor]]) -> set[str]:
        for name, weight in weights:
            self.get_parameter(name).copy_(weight)
        return {name for name, _ in weights}


class Engine:
    """``failure``: "dies" or "hangs", once, after the first bucket; "skips": it says that it loads, and does not."""

    def __init__(self, failure: str, marker: str) -> None:
        self.failure, self.marker, self.version = failure, Path(marker), -1
        self.model = Layers()
        if failure == "skips":
            self.model.load_weights = lambda weights: {name for name, _ in weights}  # type: ignore[method-assign]
        self.loader = WeightLoader(self.model)
        self.communicator: Communicator | None = None
        self.slept = 0

    async def ready(self) -> int:
        return os.getpid()

    async def weight_version(self) -> int:
        return self.version

    async def cancel(self) -> None: ...

    async def pause(self) -> None: ...

    async def generate(self, prompt: Prompt, greedy: bool) -> RolloutOutput | None:
        """Answers with its version; the engine that "dies while sampling" does so once."""
        await asyncio.sleep(0.5)
        if self.failure == "dies while sampling" and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return RolloutOutput([self.version], [], []) if self.version >= 0 else None

    async def sleep(self) -> int:
        self.slept += 1
        return self.slept

    async def init_process_group(
        self, host: str, port: int, rank: int, world_size: int, timeout: float, through_host: bool
    ) -> None:
        store = dist.TCPStore(host, port, world_size, is_master=False)
        self.communicator = Communicator(store, rank, world_size, CPU, timeout, through_host)

    async def update_weights(
        self, version: int, specs: Sequence[TensorSpec], bucket_bytes: int
    ) -> tuple[EngineStats, SyncReport]:
        report = await asyncio.get_running_loop().run_in_executor(None, partial(self.receive, specs))
        self.version = version
        return EngineStats(), report

    def receive(self, specs: Sequence[TensorSpec]) -> SyncReport:
        if self.communicator is None:
            raise TransferError("no connection")
        received = {}
        self.loader.start()
        for bucket in receive_weights(self.communicator, specs, Deadline(60), BUCKET_BYTES):
            received.update((name, checksum(weight)) for name, weight in bucket)
            if self.failure in ("dies", "hangs") and not self.marker.exists():
                self.marker.touch()
                if self.failure == "dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(600)
            self.loader.load(bucket)
        return compare_ranks([self.loader.report(received, whole=True)])

    async def values(self) -> list[float]:
        return [parameter[0].item() for parameter in self.model.parameters()]


@pytest.fixture
def make_pool(ray_cluster: None, process_group: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(engine_pool, "GRACE_SECONDS", 12.0)
    actors: list[Any] = []

    def make(*failures: str) -> EnginePool:
        actor: Any = ray.remote(Engine)
        options = {"max_restarts": -1, "num_cpus": 0.1, "max_concurrency": 10}
        actors.extend(
            actor.options(**options).remote(failure, str(tmp_path / f"failed-{number}"))
            for number, failure in enumerate(failures)
        )
        return EnginePool(actors, Worker(0, 1, CPU), timeout=400, sync_timeout=SYNC_TIMEOUT, bucket_bytes=BUCKET_BYTES)

    yield make
    for actor in actors:
        ray.kill(actor)


@pytest.mark.faults
@pytest.mark.parametrize("failure", ["dies", "hangs"])
def test_an_engine_that_fails_in_mid_transfer(make_pool: Any, failure: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The trainer notices it, restarts a hanging engine but not the healthy one, and sends all weights again."""
    model = Layers()
    for value, parameter in enumerate(model.parameters(), 1):
        parameter.fill_(value)
    pool = make_pool("", failure)
    healthy = ray.get(pool.actors[0].ready.remote())
    started = time.monotonic()
    pool.connect(PolicyWeights(model, torch.float32), version=7)
    seconds = time.monotonic() - started
    assert ray.get([actor.values.remote() for actor in pool.actors]) == [[1.0, 2.0, 3.0]] * 2
    assert ray.get([actor.weight_version.remote() for actor in pool.actors]) == [7, 7]
    assert ray.get(pool.actors[0].ready.remote()) == healthy
    output = capsys.readouterr().out
    assert "weight sync failed" in output
    assert ("restarting engine 1" in output) == (failure == "hangs")
    assert "restarting engine 0" not in output
    assert seconds < 300
    assert pool.sync_weights(PolicyWeights(model, torch.float32), version=8) is not None
    pool.sleep()
    assert ray.get([actor.sleep.remote() for actor in pool.actors]) == [2, 2], "each was sent to sleep once before"


def test_an_engine_that_dies_while_sampling(make_pool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Its requests go to the other one. It gets no more until it has been restarted and has weights."""
    pool, weights = make_pool("", "dies while sampling"), PolicyWeights(Layers(), torch.float32)
    pool.connect(weights, version=7)
    prompts = [Prompt(str(i), np.zeros((2, 2, 3), np.uint8)) for i in range(6)]
    outputs = pool.collect(pool.submit(prompts), weights)
    assert [output.prompt_token_ids for output in outputs] == [[7]] * 6
    assert (pool.router.lost, pool.restarts) == ({1}, 0)
    assert pool.sync_weights(weights, version=8) is None
    pool.recover(weights)
    assert (pool.router.lost, pool.restarts) == (set(), 1)
    assert ray.get([actor.weight_version.remote() for actor in pool.actors]) == [8, 8]
    assert "recovered from an engine failure" in capsys.readouterr().out


def test_requests_wait_for_the_only_engine(make_pool: Any) -> None:
    pool, weights = make_pool("dies while sampling"), PolicyWeights(Layers(), torch.float32)
    pool.connect(weights, version=7)
    outputs = pool.collect(pool.submit([Prompt("?", np.zeros((2, 2, 3), np.uint8))]), weights)
    assert ([output.prompt_token_ids for output in outputs], pool.restarts) == ([[7]], 1)


def test_an_engine_that_keeps_its_weights_ends_the_job(make_pool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = Layers()
    pool = make_pool("skips")
    pool.connect(PolicyWeights(model, torch.float32), version=0)  # zeros, like the engine's
    model.get_parameter("b")[5] = 1e-6
    with pytest.raises(UserError, match="weight sync of step 1 failed: the engines do not hold the trainers' weights"):
        pool.sync_weights(PolicyWeights(model, torch.float32), version=1)
    expected = "engine 0: 1 of 3 weights of the engine differ from what was loaded into them (b)"
    assert expected in capsys.readouterr().out
