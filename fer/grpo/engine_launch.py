"""Starting the rollout engines: Ray actors that live as long as the driver, and that Ray restarts when they die."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError

from fer.errors import UserError
from fer.grpo.adapters import engine_arguments
from fer.grpo.communicator import Deadline
from fer.grpo.options import GrpoConfig
from fer.grpo.vllm_engine import RolloutEngine
from fer.inference.vllm import QUIET

LOG_INTERVAL = 30.0
"""Seconds between two log lines about an engine that is waited for."""

SHUTDOWN_SECONDS = 20.0


def start_engines(
    config: GrpoConfig,
    model: str,
    masked_token_ids: Sequence[int],
    use_gpu: bool,
    engine: type[RolloutEngine] = RolloutEngine,
) -> list[Any]:
    """Create the engines' actors, without waiting for them; ``masked_token_ids`` are never sampled."""
    actor: Any = ray.remote(engine)
    sampling = {
        "n": config.num_generations,
        "temperature": config.temperature,
        "max_tokens": config.max_new_tokens,
        "logit_bias": dict.fromkeys(masked_token_ids, -100.0),  # vLLM's minimum
    }
    engine_args: dict[str, Any] = {
        "dtype": {"bf16": "bfloat16", "fp32": "float32"}[config.precision],
        "max_model_len": config.max_prompt_tokens + config.max_new_tokens + 1,  # after a comparison's: one more token
        "max_num_seqs": config.max_num_seqs,
        "tensor_parallel_size": config.tensor_parallel,
    }
    if config.tensor_parallel > 1:
        engine_args["distributed_executor_backend"] = "mp"  # in a placement group, vLLM would start Ray actors
    if config.partial_rollouts:  # between two steps, when the weights are updated, no tokens are on their way
        engine_args["async_scheduling"] = False
    if config.engine_adapters == "separate":
        engine_args |= engine_arguments(config.lora_rank, config.train)
    if use_gpu:
        engine_args["gpu_memory_utilization"] = config.gpu_memory_utilization
        engine_args["enable_sleep_mode"] = config.colocate
    placed = actor.options(
        num_cpus=config.cpus_per_engine,
        num_gpus=config.gpus_per_engine * use_gpu,
        label_selector=config.engine_labels,
        runtime_env={} if use_gpu else {"env_vars": QUIET},
        max_restarts=-1,
    )
    return [
        placed.remote(model, sampling, engine_args | {"seed": config.seed + number}, config)
        for number in range(config.engines)
    ]


@contextmanager
def running_engines(
    config: GrpoConfig, model: str, masked_token_ids: Sequence[int], use_gpu: bool
) -> Iterator[list[Any]]:
    """Engines that have started; they are killed at the end. Raises UserError if one can't be started."""
    engines = start_engines(config, model, masked_token_ids, use_gpu)
    try:
        deadline = Deadline(config.engine_timeout)
        for number, engine in enumerate(engines):
            wait_until_ready(number, engine, deadline)
        if config.colocate:
            ray.get([engine.sleep.remote() for engine in engines], timeout=config.engine_timeout)
        yield engines
    finally:
        if config.tensor_parallel > 1:
            ray.wait([each.shutdown.remote() for each in engines], num_returns=len(engines), timeout=SHUTDOWN_SECONDS)
        for engine in engines:
            ray.kill(engine)


def wait_until_ready(number: int, actor: Any, deadline: Deadline) -> None:
    """Wait until an engine has started or restarted. Raises UserError if it can't, or not before the deadline."""
    started = time.monotonic()
    ready = actor.ready.remote()
    while deadline.remaining:
        done, _ = ray.wait([ready], timeout=min(LOG_INTERVAL, deadline.remaining))
        if not done:
            print(f"waiting for engine {number} to start ({time.monotonic() - started:.0f} s)", flush=True)
            continue
        try:
            ray.get(ready)
            return
        except ActorDiedError as error:
            raise UserError(f"engine {number} can't be started: {str(error).strip().splitlines()[-1]}") from error
        except RayActorError:  # it is being restarted
            time.sleep(1)
            ready = actor.ready.remote()
    raise UserError(f"engine {number} did not start within {deadline.seconds:g} s (--engine-timeout)")
