"""The classifier's training loop, as each worker of a Ray Train group runs it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import ObjectRef
from ray.train import Checkpoint
from torch import Tensor
from torch.nn import functional as F

from fer.classifier.augment import BatchAugment
from fer.classifier.data_loader import Batch, FaceDataLoader
from fer.classifier.losses import class_weights
from fer.classifier.model_state import ModelState
from fer.classifier.objective import Objective
from fer.classifier.options import TrainConfig
from fer.classifier.preprocess import normalize
from fer.classifier.pretrained import fetch_pretrained
from fer.classifier.sam import SAM
from fer.classifier.spec import ModelSpec
from fer.classifier.teacher import Teacher
from fer.classifier.unlabelled import STRONG, WEAK, UnlabelledLoader, pseudo_labels
from fer.classifier.validation import ValidationMetrics, progress_text
from fer.data.manifest import ShardedDataset
from fer.models.device import amp_dtype
from fer.storage import fetch_folder
from fer.tracking import Run
from fer.training.checkpoint import NO_SCORE, TrainerState
from fer.training.preemption import PreemptionNotice
from fer.training.seeding import derive_seed
from fer.training.worker import Worker, broadcast_buffers, sum_over_workers


def train_classifier(settings: dict[str, Any]) -> None:
    """The train loop that Ray Train runs on each worker.

    ``settings``: config, spec, data (folder of shards), tracking and resume. Optional: pretrained, what
    `share_pretrained` returned; teachers, folders to distil; unlabelled, another folder of shards; report_fn, called
    instead of `ray.train.report`.
    """
    config = TrainConfig.model_validate(settings["config"])
    spec = ModelSpec.model_validate(settings["spec"])
    worker = Worker.start(config, settings.get("report_fn"))
    tracking, teachers = Run(**settings["tracking"]), settings.get("teachers", ())
    dataset, unlabelled = ShardedDataset(settings["data"]), settings.get("unlabelled")
    trainer = ClassifierTrainer(config, spec, dataset, worker, tracking, teachers, unlabelled)
    trainer.restore(settings["resume"], settings.get("pretrained"))
    trainer.fit()


class ClassifierTrainer:
    """Trains on one worker: epochs of gradient accumulation, validation, early stopping and checkpoints."""

    def __init__(
        self,
        config: TrainConfig,
        spec: ModelSpec,
        dataset: ShardedDataset,
        worker: Worker,
        run: Run,
        teachers: Sequence[str] = (),
        unlabelled: str | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.spec, self.worker, self.tracking = config, spec, worker, run
        gpu = worker.device.type == "cuda"
        place: dict[str, Any] = {"rank": worker.rank, "world_size": worker.world_size, "pin_memory": gpu}
        self.data_loader = FaceDataLoader(dataset, config, spec, **place)
        self.unlabelled = UnlabelledLoader(ShardedDataset(unlabelled), config, spec, **place) if unlabelled else None
        self.has_validation = "val" in dataset.manifest.splits
        self.amp = amp_dtype(worker.device) if config.amp else None
        self.steps_per_epoch = -(-self.data_loader.batches_per_epoch // config.grad_accum_steps)
        self.model_state = ModelState(config, spec, worker.device, self.amp, self.steps_per_epoch)
        self.model = worker.prepare_model(self.model_state.raw)
        if config.compile:  # what is validated and saved stays the network itself
            self.model = torch.compile(self.model)
        weight = class_weights(dataset.split("train").counts, spec.labels) if config.class_weights else None
        teacher = Teacher(teachers, spec, config.teacher_temperature, worker.device, self.amp) if teachers else None
        self.objective = Objective(config, weight.to(worker.device) if weight is not None else None, teacher)
        self.sam = SAM(self.model_state.raw, config.sam)
        self.augment = BatchAugment(config, len(spec.labels), worker.device)
        self.metrics = ValidationMetrics(spec, worker.device)
        self.state = TrainerState(world_size=worker.world_size, consumed=[(worker.world_size, 0)])
        self.notice = PreemptionNotice(worker)

    def fit(self) -> None:
        """Train from the current state to the last epoch, or until early stopping."""
        batches = self.data_loader.train_batches(self.state.epoch, self.state.consumed)
        if self.unlabelled is not None:
            batches = self.unlabelled.beside(batches, self.state.epoch, self.state.consumed, self.data_loader)
        while self.state.epoch < self.config.epochs and not self.state.finished:
            metrics = self.train_epoch(batches)
            if self.has_validation:
                metrics |= self.validate()
            self.finish_epoch(metrics)

    def train_epoch(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Train one epoch, or the rest of it: mean loss, throughput and the fraction of time spent waiting for data."""
        self.model.train()
        state, size = self.state, self.config.batch_size
        losses: list[Tensor] = []
        started, waited, passes = time.perf_counter(), 0.0, []
        left = self.data_loader.batches_left(state.consumed)
        for number in range(left):
            requested = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - requested
            # The last step of an epoch may accumulate fewer batches.
            step_start = number - number % self.config.grad_accum_steps
            if number == step_start and self.notice.arrived():
                self.log_losses(losses)
                self.report({"score": NO_SCORE})
                self.notice.leave()
            accumulated = min(self.config.grad_accum_steps, left - step_start)
            is_last = number + 1 == step_start + accumulated
            forward_backward = partial(self.forward_backward, batch, state.batch, accumulated, is_last)
            losses.append(forward_backward())
            if self.config.sam:  # without it, the batches of a step need not stay in memory
                passes.append(forward_backward)
            state.count_batch(size)
            if is_last:
                self.sam.repeat(passes)
                passes.clear()
                state.global_step += 1
                self.model_state.step(state.global_step)
                every = self.config.checkpoint_every
                if every and state.global_step % every == 0 and number + 1 < left:
                    self.log_losses(losses)
                    self.report({"score": NO_SCORE})
        self.log_losses(losses)
        seconds = time.perf_counter() - started
        return {
            "train_loss": state.loss_sum / max(state.rows, 1),
            "lr": self.model_state.lr,
            "images_per_second": left * size * self.worker.world_size / seconds,
            "data_wait": waited / seconds,
            "seconds": seconds,
        }

    def forward_backward(self, batch: Batch, number: int, accumulated: int, is_last: bool) -> Tensor:
        """Forward and backward pass of batch ``number`` of the epoch, one of ``accumulated`` in its optimizer step.

        Gradients are all-reduced at the last batch of a step only. Returns the loss, detached.
        """
        seed = derive_seed(self.config.seed, self.state.epoch, number, self.worker.rank)
        torch.manual_seed(seed)
        batch = {name: tensor.to(self.worker.device, non_blocking=True) for name, tensor in batch.items()}
        images, labels = normalize(batch["pixels"], self.spec), batch["label"]
        targets = batch["votes"] if "votes" in batch else F.one_hot(labels, len(self.spec.labels)).float()
        images, targets = self.augment(images, targets, seed)
        inputs = self.objective.prepare(images, labels, targets, batch["affect"])
        if self.unlabelled is not None:
            with self.autocast():
                pseudo = pseudo_labels(self.model_state.eval_model, normalize(batch[WEAK], self.spec), self.config)
            images = torch.cat([inputs.images, normalize(batch[STRONG], self.spec)])
            inputs = inputs._replace(images=images, pseudo=pseudo)
        skip_sync = self.worker.world_size > 1 and not is_last
        with self.model.no_sync() if skip_sync else nullcontext():
            with self.autocast():
                outputs = self.model(inputs.images, inputs.labels if self.config.margin != "none" else None)
            loss = self.objective(outputs, inputs)
            self.model_state.scaler.scale(loss / accumulated).backward()
        return loss.detach().float()

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Metrics on the whole validation split, of which each worker evaluates its share."""
        model = self.model_state.eval_model.eval()
        broadcast_buffers(model)  # they are rank 0's in the checkpoint too
        for batch in self.data_loader.val_batches():
            with self.autocast():
                outputs = model(normalize(batch["pixels"].to(self.worker.device, non_blocking=True), self.spec))
            self.metrics.update(outputs, batch)
        metrics = self.metrics.compute()
        self.model_state.spec = self.spec.model_copy(update={"reference": self.metrics.reference})
        return metrics

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Update the best score and early stopping, log the metrics, and report with a checkpoint."""
        state, config = self.state, self.config
        score = metrics.get("val_score", -metrics["train_loss"])
        improved = state.best_score is None or score > state.best_score
        state.epochs_since_best = 0 if improved else state.epochs_since_best + 1
        state.best_score = score if improved else state.best_score
        state.history.append({"epoch": state.epoch + 1, **metrics})
        state.start_epoch(state.epoch + 1)
        state.global_step = state.epoch * self.steps_per_epoch  # one more or less if the number of workers changed
        state.finished = bool(config.patience) and state.epochs_since_best >= config.patience
        if self.worker.is_rank_zero:
            self.tracking.log_metrics(metrics, step=state.epoch)
            print(progress_text(state, config.epochs, improved), flush=True)
        kept_by = state.epoch if config.keep == "last" else score
        self.report({"score": kept_by, "epoch": state.epoch, "step": state.global_step, **metrics})

    def log_losses(self, losses: list[Tensor]) -> None:
        """Log the mean losses of the batches since the last call, add them to the epoch's sum, and clear the list.

        Collective: every worker must call it.
        """
        if losses:
            values = (sum_over_workers(torch.stack(losses)) / self.worker.world_size).tolist()
            self.state.loss_sum += sum(values) * self.config.batch_size * self.worker.world_size
            if self.worker.is_rank_zero:
                self.tracking.log_series("step_loss", values, first_step=self.state.total_batches - len(values))
            losses.clear()

    def report(self, metrics: dict[str, float]) -> None:
        """Report to Ray Train with a checkpoint from rank 0. Collective: every worker must call it."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self.worker.is_rank_zero:
                self.model_state.save(Path(folder), self.state)
                checkpoint = Checkpoint.from_directory(folder)
            self.worker.report(metrics, checkpoint)

    def restore(self, resume: str | None, pretrained: ObjectRef | None) -> None:
        """Load this run's latest checkpoint, else the checkpoint folder ``resume``, else the pretrained weights."""
        checkpoint = self.worker.get_checkpoint()
        if checkpoint is None and resume:
            checkpoint = Checkpoint.from_directory(fetch_folder(resume))
        if checkpoint is None:
            if pretrained is not None:
                self.model_state.load_backbone(fetch_pretrained(pretrained))
            return
        with checkpoint.as_directory() as folder:
            state = self.state = self.model_state.load(Path(folder))
        state.change_workers(self.worker.world_size)
        rows_per_step = self.worker.world_size * self.config.batch_size * self.config.grad_accum_steps
        state.global_step = state.epoch * self.steps_per_epoch + round(state.rows / rows_per_step)
        state.finished = bool(self.config.patience) and state.epochs_since_best >= self.config.patience
        self.model_state.schedule.restore(state.global_step)

    def autocast(self) -> Any:
        return nullcontext() if self.amp is None else torch.autocast(self.worker.device.type, dtype=self.amp)
