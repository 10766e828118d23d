"""What an optimizer step changes and a checkpoint saves: weights, their average, optimizer, schedule, loss scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from fer.classifier.model import FaceModel, build_model, load_model, save_model
from fer.classifier.options import TrainConfig
from fer.classifier.spec import ModelSpec
from fer.registry import WEIGHTS
from fer.training.checkpoint import TrainerState, load_checkpoint, save_checkpoint
from fer.training.optim import LRSchedule, build_optimizer

RAW = "raw"
"""Folder of the raw weights in a checkpoint whose model folder holds their moving average."""


class ModelState:
    """A model in training.

    A checkpoint is a model folder of the weights to evaluate and export, with the training state beside it.
    """

    def __init__(
        self,
        config: TrainConfig,
        spec: ModelSpec,
        device: torch.device,
        amp_dtype: torch.dtype | None,
        steps_per_epoch: int,
    ) -> None:
        self.spec, self.device, self.clip_grad = spec, device, config.clip_grad
        self.raw = build_model(spec).to(device)
        self.raw.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.grad_checkpointing:
            self.raw.backbone.set_grad_checkpointing()
        self.ema = ModelEmaV3(self.raw, decay=config.ema, use_warmup=True) if config.ema else None
        self.optimizer = build_optimizer(config, self.raw)
        self.schedule = LRSchedule(config, self.optimizer, steps_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype is torch.float16)

    @property
    def eval_model(self) -> FaceModel:
        """The weights to evaluate and export: the moving average if there is one."""
        return self.ema.module if self.ema is not None else self.raw

    @property
    def models(self) -> list[FaceModel]:
        """The weights in training, and their moving average if there is one."""
        return [self.raw] if self.ema is None else [self.raw, self.ema.module]

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, global_step: int) -> None:
        """Apply the accumulated gradients; ``global_step`` counts the optimizer steps, this one included."""
        if self.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.raw.parameters(), self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step(global_step)
        if self.ema is not None:
            self.ema.update(self.raw, global_step)

    def load_backbone(self, weights: Mapping[str, Tensor]) -> None:
        """Start from a backbone's pretrained weights."""
        for model in self.models:
            model.backbone.load_state_dict(weights)

    def save(self, folder: Path, state: TrainerState) -> None:
        """Write a checkpoint folder."""
        save_model(self.eval_model, self.spec, folder)
        if self.ema is not None:
            save_model(self.raw, self.spec, folder / RAW)
        save_checkpoint(folder, state, optimizer=self.optimizer, scaler=self.scaler)

    def load(self, folder: Path) -> TrainerState:
        """Restore a checkpoint folder, but for the schedule; return the trainer's state.

        If the checkpoint has no moving average, it starts from the weights.
        """
        weights = load_model(folder, self.device)[0].state_dict()
        if self.ema is not None:
            self.ema.module.load_state_dict(weights)
        if (folder / RAW / WEIGHTS).exists():
            weights = load_model(folder / RAW, self.device)[0].state_dict()
        self.raw.load_state_dict(weights)
        return load_checkpoint(folder, self.device, self.optimizer, scaler=self.scaler)
