"""The five-stage training loop: what one worker of a Ray Train group does, top to bottom."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ray.train import Checkpoint
from torch import Tensor

from fer.dynamics.data_loader import Feed, judging
from fer.dynamics.frames import FramePair, read_frames
from fer.dynamics.losses import build_loss
from fer.dynamics.metrics import values
from fer.dynamics.model import load_model, save_model
from fer.dynamics.options import STAGES, DynamicsConfig, StageName
from fer.dynamics.scores import SCORES
from fer.dynamics.stages import finished, latest_before, opened, store
from fer.tracking import Run
from fer.training.checkpoint import TrainerState, load_checkpoint, read_state, save_checkpoint
from fer.training.optim import LRSchedule, build_optimizer
from fer.training.options import OptimizerOptions
from fer.training.seeding import derive_seed
from fer.training.worker import Worker

BEST = "best"
"""Folder of the stage's best weights so far, in a checkpoint."""


def train(settings: dict[str, Any]) -> None:
    """The loop that Ray Train runs on each worker.

    ``settings``: config, splits (the part of each frame), root (the run's folder), tracking (MLflow runs by stage); and
    of a worker that is alone, send (where reports go to) and resume (the folder of a checkpoint, or None).
    """
    config = DynamicsConfig.model_validate(settings["config"])
    frames, _ = read_frames(config.data)
    parts: dict[str, list[FramePair]] = {name: [] for name in ("train", "val", "test")}
    for pair, part in zip(frames, settings["splits"], strict=True):
        parts[part].append(pair)
    runs = {stage: Run(**run) for stage, run in settings["tracking"].items()}
    worker = Worker.start(config, settings.get("report_fn"))
    Trainer(config, parts["train"], parts["val"], worker, settings["root"], runs).run(settings.get("resume"))


class Trainer:
    """The state of a run on one worker, and its verbs: run, begin a stage, train an epoch, validate, save."""

    def __init__(
        self,
        config: DynamicsConfig,
        frames: Sequence[FramePair],
        validation: Sequence[FramePair],
        worker: Worker,
        root: str,
        runs: dict[str, Run],
    ) -> None:
        self.config, self.validation, self.worker, self.root, self.runs = config, validation, worker, root, runs
        self.feed = Feed(frames, config, worker.rank, worker.world_size)
        self.loss = build_loss(config.loss)

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self, resume: str | None) -> None:
        """Go through the stages that are asked for and not finished, from the last checkpoint on."""
        checkpoint = self.worker.get_checkpoint() or (Checkpoint.from_directory(resume) if resume else None)
        done = self.worker.broadcast(finished(self.root) if self.worker.is_rank_zero else None)
        for name in (name for name in STAGES if name in self.config.stages and name not in done):
            self.begin(name, checkpoint)
            checkpoint = None  # it may be gone by the next stage, which it is not of
            while self.state.epoch < self.stage.epochs and not self.state.finished:
                figures = self.train_epoch()
                figures |= self.worker.broadcast(self.validate() if self.worker.is_rank_zero else None)
                self.finish_epoch(figures)
            if self.worker.is_rank_zero:
                store(self.root, name, self.best, self.spec, self.state.history)
            self.worker.barrier()  # the next stage begins with what was stored

    def begin(self, name: StageName, checkpoint: Checkpoint | None) -> None:
        """Build the network with the weights of the stage before, or take up the stage where a checkpoint left it."""
        self.stage, self.number = self.config.stage(name), STAGES.index(name)
        with opened(self.root, latest_before(self.root, name)) as folder:
            self.network, spec = load_model(folder, self.worker.device)
        self.spec = spec.model_copy(update={"branch": self.stage.branch})
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        for part in self.stage.train:
            self.network.part(part).requires_grad_(True)
        options = OptimizerOptions(
            epochs=self.stage.epochs,
            lr=self.stage.lr,
            scheduler=self.stage.scheduler,
            weight_decay=self.config.weight_decay,
        )
        self.optimizer = build_optimizer(options, self.network)
        self.schedule = LRSchedule(options, self.optimizer, self.feed.batches_per_epoch)
        self.state = TrainerState(world_size=self.worker.world_size, stage=name)
        if checkpoint is None or not self.restore(checkpoint):
            # What the stage begins with counts too: a stage that makes nothing better changes nothing.
            self.best = self.weights()
            self.state.best_score = -self.worker.broadcast(
                self.validate()["val_loss"] if self.worker.is_rank_zero else None
            )
        self.model = self.worker.prepare_model(self.network)

    def train_epoch(self) -> dict[str, float]:
        """One pass over the training frames; its mean loss."""
        torch.manual_seed(derive_seed(self.config.seed, self.number, self.state.epoch, self.worker.rank))
        self.network.eval()  # what is frozen keeps its statistics too
        for part in self.stage.train:
            self.network.part(part).train()
        started, total = time.perf_counter(), torch.zeros((), device=self.worker.device)
        for batch in self.feed.training(self.number, self.state.epoch):
            scores = self.model(*self.inputs(batch), branch=self.stage.branch)
            loss = self.loss(scores, batch["scores"].to(self.worker.device))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.state.global_step += 1
            self.schedule.step(self.state.global_step)
            total += loss.detach()
        return {
            "train_loss": float(total) / self.feed.batches_per_epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": time.perf_counter() - started,
        }

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """The leading worker judges the whole validation part, which is small."""
        self.network.eval()
        batches = judging(self.validation, self.config.batch_size)
        scores = torch.cat([self.network(*self.inputs(batch), branch=self.stage.branch).cpu() for batch in batches])
        true = torch.tensor([pair.scores for pair in self.validation], dtype=torch.float32)
        figures = {"val_loss": float(self.loss(scores, true))}
        for column, (score, top) in enumerate(SCORES.items()):
            found = values(true[:, column].numpy(), scores[:, column].clip(0, top).numpy(), top)
            figures |= {f"val_{score}_{name}": found[name] for name in ("mse", "kappa", "accuracy")}
        return figures

    def weights(self) -> dict[str, Tensor]:
        """A copy of the network's weights as they are now."""
        return {name: value.clone() for name, value in self.network.state_dict().items()}

    def inputs(self, batch: dict[str, Tensor]) -> list[Tensor]:
        return [batch[name].to(self.worker.device) for name in ("pictures", "expression", "baseline")]

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def finish_epoch(self, figures: dict[str, float]) -> None:
        """Count the epoch, keep its weights if they are the best, and report with a checkpoint."""
        state = self.state
        score = -figures["val_loss"]
        assert state.best_score is not None, "a stage begins with a figure"
        better = score > state.best_score
        if better:
            self.best, state.best_score = self.weights(), score
        state.epochs_since_best = 0 if better else state.epochs_since_best + 1
        state.epoch += 1
        state.finished = bool(self.stage.patience) and state.epochs_since_best >= self.stage.patience
        state.history.append({"epoch": state.epoch, **figures})
        if self.worker.is_rank_zero:
            self.runs[state.stage].log_metrics(figures, step=state.epoch)
            self.say(figures, better)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self.worker.is_rank_zero:
                self.save(Path(folder))
                checkpoint = Checkpoint.from_directory(folder)
            self.worker.report({"stage": state.stage, "epoch": state.epoch, **figures}, checkpoint)

    def say(self, figures: dict[str, float], better: bool) -> None:
        """One line for the person who watches."""
        judged = "  ".join(f"{score} {figures[f'val_{score}_mse']:.3f}" for score in SCORES)
        print(
            f"stage {self.state.stage}  epoch {self.state.epoch}/{self.stage.epochs}  "
            f"train_loss {figures['train_loss']:.3f}  val_loss {figures['val_loss']:.3f}  mse: {judged}"
            f"{' *' if better else ''}" + ("  stopped early" if self.state.finished else ""),
            flush=True,
        )

    def save(self, folder: Path) -> None:
        """A checkpoint is a model folder, with the stage's best weights and the training state beside it."""
        save_model(self.network.state_dict(), self.spec, folder)
        save_model(self.best, self.spec, folder / BEST)
        save_checkpoint(folder, self.state, optimizer=self.optimizer, schedule=self.schedule)

    def restore(self, checkpoint: Checkpoint) -> bool:
        """Take up this stage at the epoch after the checkpoint's; False if the checkpoint is of another stage."""
        with checkpoint.as_directory() as name:
            folder, device = Path(name), self.worker.device
            if read_state(folder).stage != self.state.stage:
                return False
            self.network.load_state_dict(load_model(folder, device)[0].state_dict())
            self.best = load_model(folder / BEST, device)[0].state_dict()
            self.state = load_checkpoint(folder, device, optimizer=self.optimizer, schedule=self.schedule)
        self.state.world_size = self.worker.world_size
        return True
