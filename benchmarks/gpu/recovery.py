"""An engine that is killed while it samples, and one that dies in the middle of a weight transfer."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import ray

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.models import QWEN_3B, TINY
from benchmarks.gpu.parts import Figures
from benchmarks.gpu.rollouts import perturb, trainer_and_engine
from fer.grpo.vllm_engine import RolloutEngine

BEFORE_KILL = 0.3
"""Seconds of sampling before the engine is killed."""


class MortalEngine(RolloutEngine):
    """A rollout engine that dies in its next weight transfer, on request."""

    async def die_in_next_transfer(self) -> None:
        """Kill this process once it has received the first bucket of weights."""
        import fer.grpo.vllm_weight_transfer as transfer

        receive = transfer.receive_weights

        def receive_and_die(*arguments: Any) -> Any:
            for _ in receive(*arguments):
                os.kill(os.getpid(), signal.SIGKILL)

        transfer.receive_weights = receive_and_die  # type: ignore[assignment]


def run(machine: Machine, scratch: Path, figures: Figures) -> None:
    shape, prompts = (QWEN_3B, 16) if machine.gpus else (TINY, 4)  # the engine starts three times
    with trainer_and_engine(shape, machine, scratch, figures, prompts, engine=MortalEngine) as setup:
        pool = setup.pool
        pid = ray.get(setup.engine.ready.remote())
        pending = pool.submit(setup.prompts)
        killer = threading.Timer(BEFORE_KILL, os.kill, (pid, signal.SIGKILL))
        killer.start()
        started = time.perf_counter()
        outputs = pool.collect(pending, setup.weights)
        figures["killed while sampling: all answers after, s"] = time.perf_counter() - started
        assert len(outputs) == prompts
        assert pool.restarts == 1, "the engine was not killed in time"

        ray.get(setup.engine.die_in_next_transfer.remote())
        perturb(setup.model)
        started = time.perf_counter()
        assert pool.sync_weights(setup.weights, 1) is None, "the transfer should have failed"
        figures["dies in a transfer: noticed after, s"] = time.perf_counter() - started
        pool.recover(setup.weights)
        figures["dies in a transfer: engine has the weights after, s"] = time.perf_counter() - started
        assert ray.get(setup.engine.weight_version.remote()) == 1
        assert pool.sync_weights(setup.weights, 2) is not None, "the new connection does not work"
        figures["checksums after recovery"] = "equal"
