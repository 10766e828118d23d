"""Supervised fine-tuning: the training loop of one Ray Train worker."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer.data.manifest import ShardedDataset
from fer.errors import UserError
from fer.tracking import Run
from fer.training.flops import count_flops
from fer.training.seeding import derive_seed
from fer.training.worker import Worker
from fer.vlm.base_trainer import BaseTrainer
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import ChatDataLoader, SftBatch
from fer.vlm.loss import token_loss
from fer.vlm.memory import estimate_training_memory
from fer.vlm.model import resolve_vlm
from fer.vlm.options import SftConfig
from fer.vlm.validation import Sample, count_samples, generate_samples, sum_losses, to_device

LOGGED_SAMPLES = 8
"""Generated responses that each validation logs as an artifact."""


def train_sft(settings: dict[str, Any]) -> None:
    """The training loop of each Ray Train worker. ``settings``: config, model, data (folder of shards), tracking."""
    config = SftConfig.model_validate(settings["config"])
    worker = Worker.start(config)
    dataset, run = ShardedDataset(settings["data"]), Run(**settings["tracking"])
    model = resolve_vlm(settings["model"], config)
    SftTrainer(config, model, dataset, worker, run, settings["resume"]).run()


class SftTrainer(BaseTrainer):
    """One worker of a supervised fine-tuning run."""

    def __init__(
        self, config: SftConfig, model: str, dataset: ShardedDataset, worker: Worker, run: Run, resume: str | None
    ) -> None:
        super().__init__(config, model, worker, run, resume)
        self.config, self.dataset = config, dataset
        self.chat = ChatFormat(
            self.processor,
            config,
            max_tokens=config.max_tokens,
            loss_on=config.loss_on,
            system_prompt=config.system_prompt,
        )
        self.data_loader = ChatDataLoader(dataset, config, self.chat, config.seed, worker.rank, worker.world_size)
        self.step_sizes = self.data_loader.step_sizes()
        self.has_validation = "val" in dataset.manifest.splits
        self.setup(
            len(self.step_sizes) * config.epochs,
            batch_size=config.batch_size,
            grad_accum_steps=config.grad_accum_steps,
        )
        self.flops_per_token: float | None = None
        self.log = TrainingLog()

    def estimate_memory(self, options: SftConfig) -> float:
        tokens = options.batch_size * options.max_tokens
        return estimate_training_memory(options, self.model, tokens, tokens)["total"]

    # -- training ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train from the restored state to the end. A finished run has its model in its checkpoint."""
        if not self.state.finished:
            while self.state.epoch < self.config.epochs:
                self.train_epoch()
            self.save_final_model()

    def train_epoch(self) -> None:
        """Train one epoch, or the rest of it."""
        state, config = self.state, self.config
        step_sizes = self.data_loader.step_sizes(state.consumed)
        completed = int(np.searchsorted(np.cumsum(step_sizes), state.batch, side="right"))
        if completed == len(step_sizes):  # a checkpoint within an epoch is before its last step
            raise self.other_epoch()
        batches = self.data_loader.train_batches(state.epoch, state.batch, state.consumed)
        for number in range(completed, len(step_sizes)):
            if self.notice.arrived():
                if self.log.losses:
                    self.log_progress()
                self.save_checkpoint({})
                self.notice.leave()
            started = time.perf_counter()
            step = [next(batches) for _ in range(step_sizes[number])]
            self.log.data_wait += time.perf_counter() - started
            self.train_step(step)
            self.profiler.step()
            last = number + 1 == len(step_sizes)
            if last:
                state.epoch, state.batch, state.consumed = state.epoch + 1, 0, []
            every = config.checkpoint_every
            saves = state.epoch < config.epochs and (last or (every and state.global_step % every == 0))
            if state.global_step % config.log_every == 0 or last or saves:  # a restart goes on after a checkpoint
                self.log_progress()
            metrics = {}
            if self.has_validation and (last or (config.eval_steps and state.global_step % config.eval_steps == 0)):
                metrics = self.validate()
            if saves:
                self.save_checkpoint(metrics)

    def divide_rest_of_epoch(self) -> None:
        """The rest of the epoch, from the current bucket on, is divided anew; steps count as if it always had been."""
        state, config = self.state, self.config
        batches = state.batch // config.bucket_batches * config.bucket_batches
        state.consumed = [*state.consumed, (state.world_size, batches * config.batch_size)]
        steps_left = len(self.data_loader.step_sizes(state.consumed))
        if not steps_left:
            raise self.other_epoch()
        state.batch, state.global_step = 0, (state.epoch + 1) * len(self.step_sizes) - steps_left

    def other_epoch(self) -> UserError:
        return UserError(
            f"--resume {self.resume}: the checkpoint is behind the end of an epoch of {sum(self.step_sizes)} batches; "
            "resume it with the data and the batch size of its run"
        )

    def train_step(self, step: list[SftBatch]) -> None:
        """One optimizer step, in which the loss tokens of all batches and workers have equal weight.

        The loss is 0 if --max-tokens cuts off all their responses.
        """
        state, device = self.state, self.worker.device
        if self.flops_per_token is None and self.peak_flops is not None:
            self.flops_per_token = self.measure_flops(step[0])
        counted = self.all_reduce_sum(torch.tensor([float(sum(batch.loss_tokens for batch in step))])).item()
        loss_tokens = max(counted, 1.0)
        total = torch.zeros((), device=device)
        for i, batch in enumerate(step):
            torch.manual_seed(derive_seed(self.config.seed, state.epoch, state.batch, self.worker.rank))
            self.engine.set_gradient_accumulation_boundary(i + 1 == len(step))
            loss = token_loss(self.engine, to_device(batch.inputs, device))
            # DeepSpeed averages gradients over the workers; the batches of a step are summed.
            self.engine.backward(loss * (self.worker.world_size / loss_tokens), scale_wrt_gas=False)
            self.engine.step()
            total += loss.detach()
            state.batch += 1
        state.global_step += 1
        self.log.add(step, total.item(), loss_tokens, self.worker.world_size)

    def log_progress(self) -> None:
        """Log the metrics of the steps since the last call, over all workers, to MLflow and the console."""
        log, world_size = self.log, self.worker.world_size
        sums = torch.tensor([log.loss, log.tokens, log.rows, log.padded_tokens, log.data_wait])
        loss, tokens, rows, padded_tokens, data_wait = self.all_reduce_sum(sums).tolist()
        seconds = time.perf_counter() - log.started
        metrics = {
            "train_loss": loss / log.loss_tokens,
            "lr": self.learning_rate,
            "grad_norm": float(self.engine.get_global_grad_norm() or 0.0),
            "tokens_per_second": tokens / seconds,
            "samples_per_second": rows / seconds,
            "padding": 1 - tokens / padded_tokens,
            "data_wait": data_wait / world_size / seconds,
            "memory_gb": self.memory_gb(),
        }
        if self.flops_per_token and self.peak_flops:
            flops_per_second = tokens / world_size / seconds * self.flops_per_token * self.flops_factor
            metrics["mfu"] = flops_per_second / self.peak_flops
        if self.worker.is_rank_zero:
            step = self.state.global_step
            self.tracking.log_series("step_loss", log.losses, first_step=step - len(log.losses) + 1)
            self.tracking.log_metrics(metrics, step=step)
            print(
                f"step {step}/{self.total_steps}  epoch {step / len(self.step_sizes):.2f}  "
                f"train_loss {metrics['train_loss']:.4f}  lr {metrics['lr']:.2e}  "
                f"{metrics['tokens_per_second']:.0f} tokens/s  padding {metrics['padding']:.1%}  "
                f"data wait {metrics['data_wait']:.1%}",
                flush=True,
            )
        self.log = TrainingLog()

    def measure_flops(self, batch: SftBatch) -> float:
        """FLOPs of a forward pass per token."""
        inputs = to_device(batch.inputs, self.worker.device)
        return count_flops(lambda: token_loss(self.engine.module, inputs)) / batch.tokens

    # -- validation ----------------------------------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        """Loss on validation rows, and accuracy and format of generated responses; each worker takes its shard."""
        started = time.perf_counter()
        config, device, module = self.config, self.worker.device, self.engine.module
        self.engine.eval()
        metrics: dict[str, float] = {}
        if config.eval_rows:
            batches = self.data_loader.val_batches(self.val_rows(config.eval_rows))
            loss, tokens = self.all_reduce_sum(sum_losses(module, batches, device)).tolist()
            metrics["val_loss"] = loss / max(tokens, 1)
        if config.eval_generations:
            samples = [
                sample
                for batch in self.data_loader.val_prompts(self.val_rows(config.eval_generations))
                for sample in generate_samples(
                    module, batch, self.chat, device, config.eval_max_new_tokens, self.shards_weights
                )
            ]
            count, correct, formed = self.all_reduce_sum(count_samples(samples)).tolist()
            metrics |= {"val_accuracy": correct / max(count, 1), "val_well_formed": formed / max(count, 1)}
            if self.worker.is_rank_zero:
                self.log_samples(samples[:LOGGED_SAMPLES])
        self.engine.train()
        if self.worker.is_rank_zero:
            self.tracking.log_metrics(metrics, step=self.state.global_step)
            print("validation  " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()), flush=True)
        self.state.history.append({"step": float(self.state.global_step), **metrics})
        self.log.started += time.perf_counter() - started  # so that throughput is that of training alone
        return metrics

    def val_rows(self, limit: int) -> int:
        """Validation rows to use, ``limit`` at most. ZeRO-3 gathers weights from all workers in every forward pass, so
        each of them needs as many rows: the remainder is left out."""
        rows = min(limit, self.dataset.split("val").rows)
        return rows - rows % self.worker.world_size if self.shards_weights else rows

    @property
    def shards_weights(self) -> bool:
        return self.engine.zero_optimization_stage() == 3

    def log_samples(self, samples: list[Sample]) -> None:
        """Log generated responses as a JSONL artifact."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"step-{self.state.global_step:06d}.jsonl"
            file.write_text("".join(json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples))
            self.tracking.log_artifacts(Path(folder), "samples")


class TrainingLog:
    """Totals of one worker's steps since the last log entry."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.loss = self.loss_tokens = self.data_wait = 0.0
        self.tokens = self.rows = self.padded_tokens = 0
        self.losses: list[float] = []

    def add(self, step: list[SftBatch], loss: float, loss_tokens: float, world_size: int) -> None:
        """Add a step: ``loss`` is this worker's sum over tokens, ``loss_tokens`` counts those of all workers."""
        self.loss += loss
        self.loss_tokens += loss_tokens
        self.losses.append(loss * world_size / loss_tokens)
        self.tokens += sum(batch.tokens for batch in step)
        self.rows += sum(batch.rows for batch in step)
        self.padded_tokens += sum(batch.inputs["input_ids"].numel() for batch in step)
