"""The five-stage training loop, as each worker of a Ray Train group runs it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ray.train import Checkpoint
from torch import Tensor

from fer.dynamics.data_loader import FrameBatch, FramePairDataLoader, inference_batches
from fer.dynamics.frames import FramePair, read_frames
from fer.dynamics.losses import build_score_loss
from fer.dynamics.model import load_model, save_model
from fer.dynamics.options import STAGES, DynamicsConfig, StageName
from fer.dynamics.stage_folders import finished_stages, previous_stage, save_stage, stage_folder
from fer.dynamics.validation import progress_text, validation_metrics
from fer.tracking import Run
from fer.training.checkpoint import TrainerState, load_checkpoint, read_state, save_checkpoint
from fer.training.optim import LRSchedule, build_optimizer
from fer.training.options import OptimizerOptions
from fer.training.preemption import PreemptionNotice
from fer.training.seeding import derive_seed
from fer.training.worker import Worker, sum_over_workers

BEST = "best"
"""Sub-folder of a checkpoint with the best weights of the stage so far."""


def train_dynamics(settings: dict[str, Any]) -> None:
    """The train loop that Ray Train runs on each worker.

    ``settings``: config, splits (the split of each frame), root (the run's folder) and tracking (MLflow run by stage).
    Optional: report_fn, called instead of `ray.train.report`; resume, the checkpoint folder that then is resumed from.
    """
    config = DynamicsConfig.model_validate(settings["config"])
    frames, _ = read_frames(config.data)
    splits: dict[str, list[FramePair]] = {name: [] for name in ("train", "val", "test")}
    for pair, split in zip(frames, settings["splits"], strict=True):
        splits[split].append(pair)
    runs = {stage: Run(**run) for stage, run in settings["tracking"].items()}
    worker = Worker.start(config, settings.get("report_fn"))
    trainer = DynamicsTrainer(config, splits["train"], splits["val"], worker, settings["root"], runs)
    trainer.fit(settings.get("resume"))


class DynamicsTrainer:
    """Trains on one worker: stage after stage, with validation, early stopping and a checkpoint after each epoch."""

    def __init__(
        self,
        config: DynamicsConfig,
        train: Sequence[FramePair],
        validation: Sequence[FramePair],
        worker: Worker,
        root: str,
        runs: dict[str, Run],
    ) -> None:
        self.config, self.validation, self.worker, self.root, self.runs = config, validation, worker, root, runs
        self.data_loader = FramePairDataLoader(train, config, worker.rank, worker.world_size)
        self.loss = build_score_loss(config.loss)
        self.notice = PreemptionNotice(worker)

    def fit(self, resume: str | None) -> None:
        """Train the requested stages that are not finished, from the latest checkpoint."""
        checkpoint = self.worker.get_checkpoint() or (Checkpoint.from_directory(resume) if resume else None)
        finished = self.worker.broadcast(finished_stages(self.root) if self.worker.is_rank_zero else None)
        for name in (name for name in STAGES if name in self.config.stages and name not in finished):
            self.start_stage(name, checkpoint)
            checkpoint = None  # it belongs to this stage or an earlier one, and may be deleted by the next
            while self.state.epoch < self.stage.epochs and not self.state.finished:
                if self.notice.arrived():
                    self.notice.leave()  # each epoch has left a checkpoint
                metrics = self.train_epoch()
                metrics |= self.worker.broadcast(self.validate() if self.worker.is_rank_zero else None)
                self.finish_epoch(metrics)
            if self.worker.is_rank_zero:
                save_stage(self.root, name, self.best_weights, self.spec, self.state.history)
            self.worker.barrier()  # the next stage reads what was saved

    def start_stage(self, name: StageName, checkpoint: Checkpoint | None) -> None:
        """Load the weights of the previous stage and freeze the rest; or resume the stage from ``checkpoint``."""
        self.stage, self.stage_index = self.config.stage(name), STAGES.index(name)
        with stage_folder(self.root, previous_stage(self.root, name)) as folder:
            self.network, spec = load_model(folder, self.worker.device)
        self.spec = spec.model_copy(update={"branch": self.stage.branch})
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        for component in self.stage.train:
            self.network.component(component).requires_grad_(True)
        options = OptimizerOptions(
            epochs=self.stage.epochs,
            lr=self.stage.lr,
            scheduler=self.stage.scheduler,
            weight_decay=self.config.weight_decay,
        )
        self.optimizer = build_optimizer(options, self.network)
        self.schedule = LRSchedule(options, self.optimizer, self.data_loader.batches_per_epoch)
        self.state = TrainerState(world_size=self.worker.world_size, stage=name)
        if checkpoint is None or not self.load_checkpoint(checkpoint):
            # The initial weights compete too: a stage that improves nothing changes nothing.
            self.best_weights = self.copy_weights()
            metrics = self.worker.broadcast(self.validate() if self.worker.is_rank_zero else None)
            self.state.best_score = -metrics["val_loss"]
        self.model = self.worker.prepare_model(self.network)

    def train_epoch(self) -> dict[str, float]:
        """Train one epoch; returns the mean loss, the learning rate and the duration."""
        torch.manual_seed(derive_seed(self.config.seed, self.stage_index, self.state.epoch, self.worker.rank))
        self.network.eval()  # frozen components must not update their batch statistics
        for component in self.stage.train:
            self.network.component(component).train()
        started, total = time.perf_counter(), torch.zeros((), device=self.worker.device)
        for batch in self.data_loader.train_batches(self.stage_index, self.state.epoch):
            scores = self.model(*self.inputs(batch), branch=self.stage.branch)
            loss = self.loss(scores, batch["scores"].to(self.worker.device))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.state.global_step += 1
            self.schedule.step(self.state.global_step)
            total += loss.detach()
        return {
            "train_loss": float(sum_over_workers(total)) / self.data_loader.batches_per_epoch / self.worker.world_size,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": time.perf_counter() - started,
        }

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Metrics of the validation split, which is small enough for rank 0 alone."""
        self.network.eval()
        batches = inference_batches(self.validation, self.config.batch_size)
        scores = torch.cat([self.network(*self.inputs(batch), branch=self.stage.branch).cpu() for batch in batches])
        true = torch.tensor([pair.scores for pair in self.validation], dtype=torch.float32)
        return validation_metrics(self.loss, scores, true)

    def copy_weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.network.state_dict().items()}

    def inputs(self, batch: FrameBatch) -> list[Tensor]:
        return [batch[name].to(self.worker.device) for name in ("flow_image", "expression", "baseline")]

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Update the state and the best weights, log, and report with a checkpoint."""
        state, score = self.state, -metrics["val_loss"]
        assert state.best_score is not None, "set at the start of the stage"
        improved = score > state.best_score
        if improved:
            self.best_weights, state.best_score = self.copy_weights(), score
        state.epochs_since_best = 0 if improved else state.epochs_since_best + 1
        state.epoch += 1
        state.finished = bool(self.stage.patience) and state.epochs_since_best >= self.stage.patience
        state.history.append({"epoch": state.epoch, **metrics})
        if self.worker.is_rank_zero:
            self.runs[state.stage].log_metrics(metrics, step=state.epoch)
            print(progress_text(state, self.stage.epochs, improved), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self.worker.is_rank_zero:
                self.save_checkpoint(Path(folder))
                checkpoint = Checkpoint.from_directory(folder)
            self.worker.report({"stage": state.stage, "epoch": state.epoch, **metrics}, checkpoint)

    def save_checkpoint(self, folder: Path) -> None:
        """Write a checkpoint: a model folder, with the best weights of the stage and the training state."""
        save_model(self.network.state_dict(), self.spec, folder)
        save_model(self.best_weights, self.spec, folder / BEST)
        save_checkpoint(folder, self.state, optimizer=self.optimizer)

    def load_checkpoint(self, checkpoint: Checkpoint) -> bool:
        """Resume the stage after the checkpoint's epoch; False if the checkpoint belongs to another stage."""
        with checkpoint.as_directory() as path:
            folder, device = Path(path), self.worker.device
            if read_state(folder).stage != self.state.stage:
                return False
            self.network.load_state_dict(load_model(folder, device)[0].state_dict())
            self.best_weights = load_model(folder / BEST, device)[0].state_dict()
            self.state = load_checkpoint(folder, device, self.optimizer)
        self.schedule.restore(self.state.global_step)
        self.state.world_size = self.worker.world_size
        return True
