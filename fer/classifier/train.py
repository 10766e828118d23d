"""The classifier's training loop: what one worker of a Ray Train group does, top to bottom."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from ray.train import Checkpoint
from timm.utils import ModelEmaV3
from torch import Tensor

from fer.classifier.augment import BatchAugment
from fer.classifier.data_loader import Batch, FaceDataLoader
from fer.classifier.losses import affect_loss, build_loss, class_weights
from fer.classifier.model import FaceModel, ModelSpec, Outputs, build_model, load_model, save_model
from fer.classifier.options import TrainConfig
from fer.classifier.preprocess import normalize
from fer.classifier.validation import ValidationMetrics
from fer.data.manifest import ShardedDataset
from fer.models.folder import WEIGHTS
from fer.tracking import Run
from fer.training.checkpoint import TrainerState, load_checkpoint, save_checkpoint
from fer.training.optim import LRSchedule, build_optimizer
from fer.training.seeding import derive_seed
from fer.training.worker import Worker, amp_dtype

AVERAGE = "average"
"""Folder of the raw weights in a checkpoint whose model is their moving average."""


def train(settings: dict[str, Any]) -> None:
    """The loop that Ray Train runs on each worker.

    ``settings``: config, spec, data (folder of shards), tracking, resume; send, where reports go if not to Ray Train;
    and new_rates, if learning rate and weight decay are not to be taken from the checkpoint.
    """
    config = TrainConfig.model_validate(settings["config"])
    spec = ModelSpec.model_validate(settings["spec"])
    worker = Worker.start(config, settings.get("report_fn"))
    trainer = Trainer(config, spec, ShardedDataset(settings["data"]), worker, Run(**settings["tracking"]))
    trainer.restore(settings["resume"], settings.get("new_rates", False))
    trainer.run()


class Trainer:
    """The state of a run on one worker, and its verbs: restore, run, train an epoch, validate, save."""

    def __init__(self, config: TrainConfig, spec: ModelSpec, dataset: ShardedDataset, worker: Worker, run: Run) -> None:
        torch.manual_seed(config.seed)
        self.config, self.spec, self.worker, self.tracking = config, spec, worker, run
        self.raw = build_model(spec, config.pretrained).to(worker.device)
        self.raw.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.grad_checkpointing:
            self.raw.backbone.set_grad_checkpointing()
        self.model = worker.prepare_model(self.raw)
        self.average = ModelEmaV3(self.raw, decay=config.ema, use_warmup=True) if config.ema else None
        self.data_loader = FaceDataLoader(dataset, config, spec, worker.rank, worker.world_size)
        self.updates_per_epoch = -(-self.data_loader.batches_per_epoch // config.grad_accum_steps)
        self.optimizer = build_optimizer(config, self.raw)
        self.schedule = LRSchedule(config, self.optimizer, self.updates_per_epoch)
        weight = class_weights(dataset.split("train").counts, spec.labels) if config.class_weights else None
        self.loss = build_loss(config, weight.to(worker.device) if weight is not None else None)
        self.augment = BatchAugment(config, len(spec.labels), worker.device)
        self.metrics = ValidationMetrics(spec, worker.device)
        self.amp = amp_dtype(worker.device) if config.amp else None
        self.scaler = torch.amp.GradScaler(worker.device.type, enabled=self.amp is torch.float16)
        self.has_validation = "val" in dataset.manifest.splits
        self.state = TrainerState(world_size=worker.world_size)

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train from the restored state to the end, or until validation stops improving."""
        batches = self.data_loader.train_batches(self.state.epoch, self.state.batch)
        while self.state.epoch < self.config.epochs and not self.state.finished:
            figures = self.train_epoch(batches)
            if self.has_validation:
                figures |= self.validate()
            self.finish_epoch(figures)

    def train_epoch(self, batches: Iterator[Batch]) -> dict[str, float]:
        """One epoch, or what is left of it; its mean loss, speed and share of time spent waiting for data."""
        self.model.train()
        started, waited, losses = time.perf_counter(), 0.0, []
        first, last = self.state.batch, self.data_loader.batches_per_epoch
        for number in range(first, last):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            # The last step of an epoch may have fewer batches to add up.
            begun = number - number % self.config.grad_accum_steps
            parts = min(self.config.grad_accum_steps, last - begun)
            ends_step = number + 1 == begun + parts
            losses.append(self.backward(batch, number, parts, ends_step))
            self.state.batch = number + 1
            if ends_step:
                self.step()
                every = self.config.checkpoint_every
                if every and self.state.global_step % every == 0 and number + 1 < last:
                    self.log_losses(losses)
                    self.report({"score": -1.0}, save=True)
        self.log_losses(losses)
        seconds = time.perf_counter() - started
        return {
            "train_loss": self.state.loss_sum / last,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": (last - first) * self.config.batch_size * self.worker.world_size / seconds,
            "data_wait": waited / seconds,
            "seconds": seconds,
        }

    def log_losses(self, losses: list[Tensor]) -> None:
        """Log the losses of the batches since the last call, and add them to the epoch's; empties the list."""
        if losses:
            values = torch.stack(losses).tolist()
            self.state.loss_sum += sum(values)
            if self.worker.is_rank_zero:
                done = self.state.epoch * self.data_loader.batches_per_epoch + self.state.batch
                self.tracking.log_series("step_loss", values, first_step=done - len(values))
            losses.clear()

    def backward(self, batch: Batch, number: int, parts: int, ends_step: bool) -> Tensor:
        """Forward and backward of one batch; gradients are averaged over workers only at the last of a step."""
        key = derive_seed(self.config.seed, self.state.epoch, number, self.worker.rank)
        torch.manual_seed(key)
        images = normalize(batch["pixels"].to(self.worker.device, non_blocking=True), self.spec)
        labels = batch["label"].to(self.worker.device)
        images, mixed = self.augment(images, labels, key)
        targets = batch["votes"].to(self.worker.device) if "votes" in batch else mixed
        if targets is None:
            targets = torch.nn.functional.one_hot(labels, len(self.spec.labels)).float()
        waits = self.worker.world_size > 1 and not ends_step
        with self.model.no_sync() if waits else nullcontext():
            with self.autocast():
                outputs = self.model(images, labels if self.config.margin != "none" else None)
            loss = self.total_loss(outputs, targets, batch["affect"].to(self.worker.device))
            self.scaler.scale(loss / parts).backward()
        return loss.detach().float()

    def total_loss(self, outputs: Outputs, targets: Tensor, affect: Tensor) -> Tensor:
        """The sum of the heads' losses."""
        losses = []
        if outputs.logits is not None:
            losses.append(self.loss(outputs.logits, targets))
        if outputs.valence_arousal is not None:
            losses.append(affect_loss(outputs.valence_arousal, affect))
        return torch.stack(losses).sum()

    def step(self) -> None:
        """One optimizer step."""
        if self.config.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.raw.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.global_step += 1
        self.schedule.step(self.state.global_step)
        if self.average is not None:
            self.average.update(self.raw, self.state.global_step)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Evaluate the exported model on the whole validation split, every worker on its share."""
        model = self.kept_model.eval()
        for batch in self.data_loader.val_batches():
            with self.autocast():
                outputs = model(normalize(batch["pixels"].to(self.worker.device), self.spec))
            self.metrics.update(outputs, batch)
        return self.metrics.compute()

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    @property
    def kept_model(self) -> FaceModel:
        """The weights that are judged and kept: the moving average, if there is one."""
        return self.average.module if self.average is not None else self.raw

    def finish_epoch(self, figures: dict[str, float]) -> None:
        """Count the epoch, decide whether to go on, and report with a checkpoint."""
        state, config = self.state, self.config
        score = figures.get("val_score", -figures["train_loss"])
        better = state.best_score is None or score > state.best_score
        state.epochs_since_best = 0 if better else state.epochs_since_best + 1
        state.best_score = score if better else state.best_score
        state.history.append({"epoch": state.epoch + 1, **figures})
        state.epoch, state.batch, state.loss_sum = state.epoch + 1, 0, 0.0
        state.finished = bool(config.patience) and state.epochs_since_best >= config.patience
        if self.worker.is_rank_zero:
            self.tracking.log_metrics(figures, step=state.epoch)
            self.say(figures, better)
        self.report({"score": score, "epoch": state.epoch, "step": state.global_step, **figures}, save=True)

    def say(self, figures: dict[str, float], better: bool) -> None:
        """One line for the person who watches."""
        seen = self.state.history
        left = (self.config.epochs - self.state.epoch) * sum(entry["seconds"] for entry in seen) / len(seen)
        judged = "  ".join(f"{name} {figures[name]:.3f}" for name in self.metrics.shown if name in figures)
        print(
            f"epoch {self.state.epoch}/{self.config.epochs}  train_loss {figures['train_loss']:.3f}  {judged}"
            f"{' *' if better else ''}  {figures['images_per_second']:.0f} img/s  "
            f"data wait {figures['data_wait']:.1%}  "
            + (
                f"stopped: no better for {self.state.epochs_since_best} epochs"
                if self.state.finished
                else f"{left / 60:.1f} min left"
            ),
            flush=True,
        )

    def report(self, metrics: dict[str, float], save: bool) -> None:
        """Report to Ray Train, with a checkpoint from the leading worker. Every worker must call it."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if save and self.worker.is_rank_zero:
                self.save(Path(folder))
                checkpoint = Checkpoint.from_directory(folder)
            self.worker.report(metrics, checkpoint)

    def save(self, folder: Path) -> None:
        """A checkpoint is a model folder with the training state beside it."""
        save_model(self.kept_model, self.spec, folder)
        if self.average is not None:
            save_model(self.raw, self.spec, folder / AVERAGE)
        save_checkpoint(folder, self.state, optimizer=self.optimizer, schedule=self.schedule, scaler=self.scaler)

    def restore(self, resume: str | None, new_rates: bool = False) -> None:
        """Continue from Ray Train's last checkpoint of this run, or from the folder ``resume``.

        With ``new_rates`` learning rate and weight decay are this run's own, not those of the checkpoint.
        """
        checkpoint = self.worker.get_checkpoint() or (Checkpoint.from_directory(resume) if resume else None)
        if checkpoint is None:
            return
        with checkpoint.as_directory() as name:
            folder, device = Path(name), self.worker.device
            kept = load_model(folder, device)[0].state_dict()
            if self.average is not None and (folder / AVERAGE / WEIGHTS).exists():
                self.average.module.load_state_dict(kept)
                kept = load_model(folder / AVERAGE, device)[0].state_dict()
            self.raw.load_state_dict(kept)
            parts = {"optimizer": self.optimizer, "scaler": self.scaler}
            decay = [group["weight_decay"] for group in self.optimizer.param_groups]
            if not new_rates:
                parts["schedule"] = self.schedule
            self.state = load_checkpoint(folder, device, **parts)
            if new_rates:
                for group, own in zip(self.optimizer.param_groups, decay, strict=True):
                    group["weight_decay"] = own
                for update in range(1, self.state.global_step + 1):
                    self.schedule.step(update)
        if self.state.world_size != self.worker.world_size:
            self.state.global_step -= -(-self.state.batch // self.config.grad_accum_steps)
            self.state.batch, self.state.loss_sum, self.state.world_size = 0, 0.0, self.worker.world_size

    def autocast(self) -> Any:
        enabled = self.amp is not None
        return torch.autocast(self.worker.device.type, dtype=self.amp, enabled=enabled) if enabled else nullcontext()
