"""Supervised fine-tuning: what one worker of a Ray Train group does, top to bottom."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fer.data.manifest import ShardedDataset
from fer.tracking import Run
from fer.training.flops import count_flops
from fer.training.seeding import derive_seed
from fer.training.worker import Worker
from fer.vlm.base_trainer import BaseTrainer
from fer.vlm.chat import ChatFormat
from fer.vlm.data_loader import Batch, ChatDataLoader
from fer.vlm.loss import token_loss
from fer.vlm.options import SftConfig
from fer.vlm.validation import Sample, answer, sum_losses, tally, to_device

SAMPLES_KEPT = 8
"""Generated answers that each evaluation leaves among the run's artifacts."""


def train_sft(settings: dict[str, Any]) -> None:
    """The loop that Ray Train runs on each worker. ``settings``: config, model, data (folder of shards), tracking."""
    config = SftConfig.model_validate(settings["config"])
    worker = Worker.start(config)
    trainer = Trainer(config, settings["model"], ShardedDataset(settings["data"]), worker, Run(**settings["tracking"]))
    trainer.restore(settings["resume"])
    trainer.run()


class Trainer(BaseTrainer):
    """The state of a run on one worker, and its verbs: restore, run, take a step, validate, save."""

    def __init__(self, config: SftConfig, model: str, dataset: ShardedDataset, worker: Worker, run: Run) -> None:
        super().__init__(config, model, worker, run)
        self.config = config
        self.chat = ChatFormat(self.processor, config, max_tokens=config.max_tokens, loss_on=config.loss_on)
        self.feed = ChatDataLoader(dataset, config, self.chat, config.seed, worker.rank, worker.world_size)
        self.step_sizes = self.feed.step_sizes()
        self.has_validation = "val" in dataset.manifest.splits
        self.setup(
            len(self.step_sizes) * config.epochs,
            batch_size=config.batch_size,
            grad_accum_steps=config.grad_accum_steps,
        )
        self.flops_per_token: float | None = None
        self.log = StepLog()

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train from the restored state to the end. A finished run has its model in its checkpoint."""
        if not self.state.finished:
            while self.state.epoch < self.config.epochs:
                self.train_epoch()
            self.save_final_model()

    def train_epoch(self) -> None:
        """One epoch, or what is left of it."""
        state, config = self.state, self.config
        done = state.global_step - state.epoch * len(self.step_sizes)
        batches = self.feed.training(state.epoch, state.batch)
        for size in self.step_sizes[done:]:
            asked = time.perf_counter()
            step = [next(batches) for _ in range(size)]
            self.log.waited += time.perf_counter() - asked
            self.take_step(step)
            last = state.global_step % len(self.step_sizes) == 0
            if last:
                state.epoch, state.batch = state.epoch + 1, 0
            if state.global_step % config.log_every == 0 or last:
                self.report_progress()
            figures = {}
            if self.has_validation and (last or (config.eval_steps and state.global_step % config.eval_steps == 0)):
                figures = self.validate()
            every = config.checkpoint_every
            if state.epoch < config.epochs and (last or (every and state.global_step % every == 0)):
                self.save_checkpoint(figures)

    def take_step(self, step: list[Batch]) -> None:
        """One optimizer step: every learned token of all batches and workers weighs the same."""
        state, device = self.state, self.worker.device
        if self.flops_per_token is None and self.peak_flops is not None:
            self.flops_per_token = self.measure_flops(step[0])
        learned = self.all_reduce_sum(torch.tensor([float(sum(batch.learned for batch in step))]))[0]
        total = torch.zeros((), device=device)
        for i, batch in enumerate(step):
            torch.manual_seed(derive_seed(self.config.seed, state.epoch, state.batch, self.worker.rank))
            self.engine.set_gradient_accumulation_boundary(i + 1 == len(step))
            loss = token_loss(self.engine, to_device(batch.inputs, device), self.trim_logits)
            # DeepSpeed averages over the workers; the batches of a step are summed.
            self.engine.backward(loss * (self.worker.world_size / learned.item()), scale_wrt_gas=False)
            self.engine.step()
            total += loss.detach()
            state.batch += 1
        state.global_step += 1
        self.log.add(step, total.item(), learned.item(), self.worker.world_size)

    def report_progress(self) -> None:
        """Figures of the steps since the last time, over all workers: to MLflow, and in a line."""
        log, workers = self.log, self.worker.world_size
        sums = self.all_reduce_sum(torch.tensor([log.loss, log.tokens, log.rows, log.places, log.waited]))
        loss, tokens, rows, places, waited = sums.tolist()
        seconds = time.perf_counter() - log.started
        figures = {
            "train_loss": loss / log.learned,
            "lr": self.learning_rate,
            "grad_norm": float(self.engine.get_global_grad_norm() or 0.0),
            "tokens_per_second": tokens / seconds,
            "samples_per_second": rows / seconds,
            "padding": 1 - tokens / places,
            "data_wait": waited / workers / seconds,
            "memory_gb": self.memory_gb(),
        }
        if self.flops_per_token and self.peak_flops:
            figures["mfu"] = tokens / workers / seconds * self.flops_per_token * self.flops_factor / self.peak_flops
        if self.worker.is_rank_zero:
            self.tracking.log_series("step_loss", log.losses, first_step=self.state.global_step - len(log.losses) + 1)
            self.tracking.log_metrics(figures, step=self.state.global_step)
            epoch = self.state.global_step / len(self.step_sizes)
            print(
                f"step {self.state.global_step}/{self.total_steps}  epoch {epoch:.2f}  "
                f"train_loss {figures['train_loss']:.4f}  lr {figures['lr']:.2e}  "
                f"{figures['tokens_per_second']:.0f} tokens/s  padding {figures['padding']:.1%}  "
                f"data wait {figures['data_wait']:.1%}",
                flush=True,
            )
        self.log = StepLog()

    def measure_flops(self, batch: Batch) -> float:
        inputs = to_device(batch.inputs, self.worker.device)
        return count_flops(lambda: token_loss(self.engine.module, inputs, self.trim_logits)) / batch.tokens

    # -- validation ----------------------------------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        """Loss and answers on validation rows, each worker on its share."""
        paused = time.perf_counter()
        config, device, module = self.config, self.worker.device, self.engine.module
        self.engine.eval()
        figures: dict[str, float] = {}
        if config.eval_rows:
            batches = self.feed.validation(config.eval_rows)
            loss, learned = self.all_reduce_sum(sum_losses(module, batches, device, self.trim_logits)).tolist()
            figures["val_loss"] = loss / max(learned, 1)
        if config.eval_generations:
            together = self.engine.zero_optimization_stage() == 3
            samples = [
                sample
                for asked in self.feed.questions(config.eval_generations)
                for sample in answer(module, asked, self.chat, device, config.eval_max_new_tokens, together)
            ]
            answers, right, formed = self.all_reduce_sum(tally(samples)).tolist()
            figures |= {"val_accuracy": right / max(answers, 1), "val_well_formed": formed / max(answers, 1)}
            if self.worker.is_rank_zero:
                self.keep(samples)
        self.engine.train()
        if self.worker.is_rank_zero:
            self.tracking.log_metrics(figures, step=self.state.global_step)
            print("validation  " + "  ".join(f"{name} {value:.4f}" for name, value in figures.items()), flush=True)
        self.state.history.append({"step": float(self.state.global_step), **figures})
        self.log.started += time.perf_counter() - paused
        return figures

    def keep(self, samples: list[Sample]) -> None:
        """Some answers, as an artifact of the run."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"step-{self.state.global_step:06d}.jsonl"
            lines = [json.dumps(asdict(sample), ensure_ascii=False) for sample in samples[:SAMPLES_KEPT]]
            file.write_text("\n".join(lines) + "\n")
            self.tracking.log_artifacts(Path(folder), "samples")


class StepLog:
    """What one worker's steps since the last report amount to."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.loss = self.learned = self.waited = 0.0
        self.tokens = self.rows = self.places = 0
        self.losses: list[float] = []

    def add(self, step: list[Batch], loss: float, learned: float, workers: int) -> None:
        """Count a step: ``loss`` is summed over this worker's tokens, ``learned`` counts those of all workers."""
        self.loss += loss
        self.learned += learned
        self.losses.append(loss * workers / learned)
        self.tokens += sum(batch.tokens for batch in step)
        self.rows += sum(batch.rows for batch in step)
        self.places += sum(batch.inputs["input_ids"].numel() for batch in step)
