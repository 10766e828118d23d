"""The update of the policy on the completions of a step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fer.grpo.balance import balance_rows
from fer.grpo.batch import RolloutBatch, make_batches
from fer.grpo.groups import RolloutGroup, make_rows
from fer.grpo.logprobs import batch_logprobs
from fer.grpo.loss import Totals, importance_weights, policy_loss
from fer.grpo.options import GrpoConfig
from fer.grpo.reference import load_reference
from fer.grpo.shared_prompts import find_shared_prompts
from fer.grpo.step import Step
from fer.training.flops import count_flops
from fer.training.seeding import derive_seed
from fer.vlm.base_trainer import BaseTrainer


class PolicyUpdate:
    """``num_iterations`` optimizer steps, each on all completions. Collective: every trainer must call it."""

    def __init__(
        self,
        trainer: BaseTrainer,
        config: GrpoConfig,
        model: str,
        masked_token_ids: Sequence[int],
        pad_token_id: int,
    ) -> None:
        """``trainer``, after `BaseTrainer.setup`; ``model``, the reference's folder."""
        self.trainer, self.config, self.pad_token_id = trainer, config, pad_token_id
        self.device = trainer.worker.device
        self.reference = load_reference(trainer.engine, model, config) if config.beta else None
        self.logprobs = partial(
            batch_logprobs,
            temperature=config.temperature,
            masked_token_ids=torch.tensor(masked_token_ids, dtype=torch.long, device=self.device),
        )
        self.shared_prompts = find_shared_prompts(trainer.engine.module)
        self.flops_per_token: float | None = None

    def __call__(self, groups: Sequence[RolloutGroup], step: Step) -> None:
        trainer, config = self.trainer, self.config
        with step.phase("update"):
            rows = balance_rows(make_rows(groups, scale_rewards=config.loss != "dr_grpo"))
            batches = list(
                make_batches(rows, config.batch_size, self.pad_token_id, trainer.share_images, self.shared_prompts)
            )
            sums = torch.tensor([[len(batch.mask), batch.mask.sum(), batch.num_tokens] for batch in batches]).sum(0)
            completions, tokens, _ = trainer.all_reduce_sum(sums).tolist()
            step.num_tokens = int(sums[2])
            step.flops = self.count_flops(batches[0], step.num_tokens * config.num_iterations)
            if self.reference is not None:
                for batch in batches:
                    batch.ref_logprobs = self.reference(partial(self.reference_logprobs, batch))
            for _ in range(config.num_iterations):
                self.optimizer_step(batches, Totals(completions, tokens), step)
            step.loss /= config.num_iterations
        step.grad_norm = float(trainer.engine.get_global_grad_norm() or 0.0)
        step.lr = trainer.learning_rate
        step.memory_gb = trainer.memory_gb()
        if config.colocate and self.device.type == "cuda":
            torch.cuda.empty_cache()  # what the update needed is the engine's now

    def optimizer_step(self, batches: Sequence[RolloutBatch], totals: Totals, step: Step) -> None:
        engine, worker, state = self.trainer.engine, self.trainer.worker, self.trainer.state
        for number, batch in enumerate(batches):
            torch.manual_seed(derive_seed(self.config.seed, state.global_step, number, worker.rank))
            engine.set_gradient_accumulation_boundary(number + 1 == len(batches))
            # DeepSpeed averages over the trainers; the loss is a sum over all their completions.
            engine.backward(self.batch_loss(batch, totals, step) * worker.world_size, scale_wrt_gas=False)
            engine.step()
        state.global_step += 1

    def batch_loss(self, batch: RolloutBatch, totals: Totals, step: Step) -> Tensor:
        """The batch's share of the step's loss."""
        config = self.config
        logprobs, entropy = self.logprobs(self.trainer.engine, batch)
        if batch.old_logprobs is None:
            batch.old_logprobs = logprobs.detach()
        mask = batch.mask.to(self.device)
        engine_logprobs = batch.engine_logprobs.to(self.device)
        weights = importance_weights(batch.old_logprobs, engine_logprobs, mask, config.importance_sampling_cap)
        outcome = policy_loss(
            logprobs,
            batch.old_logprobs,
            batch.ref_logprobs,
            batch.advantages.to(self.device),
            mask,
            weights,
            totals,
            loss_type=config.loss,
            clip_ratio_low=config.clip_ratio_low,
            clip_ratio_high=config.clip_ratio_high,
            beta=config.beta,
            max_tokens=config.max_new_tokens,
        )
        step.add_batch(batch, logprobs.detach(), entropy, mask, weights, outcome, config.importance_sampling_cap)
        return outcome.loss

    def reference_logprobs(self, batch: RolloutBatch, model: Any) -> Tensor:
        return self.logprobs(model, batch)[0]

    def count_flops(self, batch: RolloutBatch, tokens: int) -> float | None:
        """FLOPs of updates on so many tokens, by those of a forward pass of ``batch``; None without a known peak."""
        trainer = self.trainer
        if trainer.peak_flops is None:
            return None
        if self.flops_per_token is None:
            self.flops_per_token = count_flops(lambda: self.logprobs(trainer.engine.module, batch)) / batch.num_tokens
        return tokens * self.flops_per_token * trainer.flops_factor
