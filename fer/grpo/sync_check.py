"""Checks that the engines have the trainers' weights: both compute the log-probabilities of the same completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError
from torch import Tensor

from fer.errors import UserError
from fer.grpo.batch import RolloutGroup
from fer.grpo.engine_pool import EnginePool
from fer.grpo.logprobs import completion_logprobs
from fer.grpo.rollout import Prompt


def check_sync(pool: EnginePool, model: Any, group: RolloutGroup, pad_token_id: int, tolerance: float) -> float:
    """Compare engines and trainer on the shortest completion of a group, see `compare_logprobs`. Collective."""
    token_ids = min((completion.token_ids for completion in group.completions), key=len)
    logprobs = completion_logprobs(model, group.example, token_ids, pad_token_id, pool.worker.device)
    return compare_logprobs(pool, group.example.prompt, token_ids, logprobs, tolerance)


def compare_logprobs(
    pool: EnginePool, prompt: Prompt, token_ids: Sequence[int], logprobs: Tensor, tolerance: float
) -> float:
    """The mean absolute difference of the engines' log-probabilities from the trainer's; the largest over engines.

    Collective; rank 0's completion is compared. Raises UserError on every trainer if the difference exceeds the
    tolerance: the engines do not have the trainers' weights.
    """
    largest = torch.zeros((), dtype=torch.float64, device=pool.worker.device)
    if pool.worker.is_rank_zero:
        for number, actor in enumerate(pool.actors):
            try:
                result = ray.get(actor.compute_logprobs.remote(prompt, list(token_ids)), timeout=pool.timeout)
            except RayActorError:  # the next request to it triggers its recovery
                pool.log(f"engine {number} died before its weights were checked")
                continue
            difference = (logprobs - torch.tensor(result)).abs().mean().to(largest)
            largest = torch.maximum(largest, difference.nan_to_num(torch.inf))
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    if largest > tolerance:
        raise UserError(
            f"weight sync of step {pool.version} failed: the engines' log-probabilities differ from the trainers' by "
            f"{largest.item():.3g} on average (--sync-tolerance {tolerance:g})"
        )
    return largest.item()
