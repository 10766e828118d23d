"""The measurements of one step on one trainer, before they are reduced over all trainers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from fer.grpo.batch import RolloutBatch
from fer.grpo.groups import RolloutGroup
from fer.grpo.loss import PolicyLoss
from fer.grpo.rollout import EngineStats

PHASES = ("wait", "reward", "update", "sync", "check_sync")
TOKEN_SUMS = ("tokens", "kl", "clip_ratio", "entropy", "importance", "importance_capped", "logprob_diff")


class Step:
    """Collects what the trainer and the loss measure during a step."""

    def __init__(self, global_step: int) -> None:
        self.global_step = global_step
        """Optimizer steps before this one: the version of the weights that it starts with."""
        self.started = time.perf_counter()
        self.phase_seconds = dict.fromkeys(PHASES, 0.0)
        self.token_sums = dict.fromkeys(TOKEN_SUMS, 0.0)
        """Sums over the completion tokens of all passes of the step; "tokens" is their number."""
        self.loss = 0.0
        self.importance_max = 0.0
        self.groups: list[RolloutGroup] = []
        """All groups that were collected, also those that the step does not train on."""
        self.num_tokens = 0
        """Tokens of one pass over the step's batches, prompts included."""
        self.flops: float | None = None
        """Model FLOPs of the update; None if the device's peak is unknown."""
        self.grad_norm = self.lr = self.memory_gb = 0.0
        self.engine_stats: EngineStats | None = None
        self.engine_restarts = 0
        """Since the start of the job."""
        self.sync_logprob_diff: float | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the phase ``name``."""
        started = time.perf_counter()
        yield
        self.phase_seconds[name] += time.perf_counter() - started

    def add_batch(
        self,
        batch: RolloutBatch,
        logprobs: Tensor,
        entropy: Tensor,
        mask: Tensor,
        weights: Tensor,
        outcome: PolicyLoss,
        importance_cap: float,
    ) -> None:
        """Count a batch after its forward pass; ``logprobs``, ``entropy``, ``mask`` and ``weights`` are (N, T)."""
        importance = weights[mask]
        sums = {
            "tokens": mask.sum(),
            "kl": outcome.kl,
            "clip_ratio": outcome.clipped,
            "entropy": entropy[mask].sum(),
            "importance": importance.sum(),
            "importance_capped": (importance >= importance_cap).sum() * bool(importance_cap),
            "logprob_diff": (logprobs - batch.engine_logprobs.to(logprobs.device))[mask].abs().sum(),
        }
        for name, value in sums.items():
            self.token_sums[name] += value.item()
        self.loss += outcome.loss.item()
        self.importance_max = max(self.importance_max, weights.max().item())
