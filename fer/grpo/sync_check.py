"""The difference of engines and trainers in numbers: both compute the log-probabilities of the same completions.

It shows how far two implementations are apart, and is a number to watch. Whether weights arrived is shown by their
checksums (`fer.grpo.checksums`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from torch import Tensor

from fer.grpo.engine_errors import as_line
from fer.grpo.engine_pool import EnginePool
from fer.grpo.groups import RolloutGroup
from fer.grpo.logprobs import completion_logprobs
from fer.grpo.rollout import Prompt


def measure_logprob_diff(pool: EnginePool, model: Any, group: RolloutGroup, pad_token_id: int) -> float:
    """Compare engines and trainer on all completions of a group, see `compare_logprobs`. Collective."""
    completions = [completion.token_ids for completion in group.completions]
    logprobs = completion_logprobs(model, group.example, completions, pad_token_id, pool.worker.device)
    return compare_logprobs(pool, group.example.prompt, completions, logprobs)


def compare_logprobs(
    pool: EnginePool, prompt: Prompt, completions: Sequence[Sequence[int]], logprobs: Sequence[Tensor]
) -> float:
    """Mean absolute difference of the engines' log-probabilities from the trainer's, over all tokens and engines.

    Collective; rank 0's completions are compared. An engine that fails is left out: the next request to it triggers its
    recovery. NaN if all of them fail.
    """
    mean = torch.zeros((), dtype=torch.float64, device=pool.worker.device)
    if pool.worker.is_rank_zero:
        ids = [list(each) for each in completions]
        refs = [actor.compute_logprobs.remote(prompt, ids) for actor in pool.actors]
        ray.wait(refs, num_returns=len(refs), timeout=pool.timeout)
        differences = []
        for number, ref in enumerate(refs):
            try:
                values = ray.get(ref, timeout=0)
            except (RayActorError, GetTimeoutError, RayTaskError) as error:
                pool.log(f"engine {number} did not compute log-probabilities: {as_line(error)}")
                continue
            differences.append(torch.cat(list(logprobs)) - torch.cat([torch.tensor(each) for each in values]))
        mean = torch.cat(differences).abs().mean().to(mean) if differences else mean + torch.nan
    dist.broadcast(mean, src=0)
    return mean.item()
