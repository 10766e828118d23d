"""Options of a run: its name and place, its workers, its tracking. Every Ray Train job has them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fer.options import Options
from fer.tracking import TrackingOptions


class NamedOptions(TrackingOptions):
    """What has a name: a run or a campaign, and the model it leaves."""

    name: str | None = Field(
        None,
        pattern=r"^[\w.-]+$",
        description="Name of the run; a stopped run of this name is continued. Unset: made from model and time",
    )
    experiment: str = Field("ferry", description="MLflow experiment that the run belongs to")
    register_as: str | None = Field(None, description="Register the trained model in MLflow under this name")
    alias: str = Field("challenger", description="Alias that the registered model gets")


class LaunchOptions(NamedOptions):
    """How a training job runs."""

    workers: int = Field(
        1, ge=1, description="Training workers (processes of Ray Train; one GPU each, if there are GPUs)"
    )
    cpus_per_worker: float = Field(1, gt=0, description="CPUs that Ray reserves for each worker")
    threads: int = Field(
        0, ge=0, description="Compute threads per worker; 0: the machine's cores divided by its workers"
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="What to train on; auto takes GPUs if the cluster has them"
    )
    seed: int = Field(0, ge=0, description="Seed of everything random: order, augmentation, initial weights")
    max_failures: int = Field(3, ge=0, description="Restart the workers up to so many times when one dies")


class RunOptions(LaunchOptions):
    """A training job whose checkpoints another run can start from, and can lie inside an epoch."""

    resume: str | None = Field(
        None,
        description="Start from this checkpoint, optimizer and position too (a stopped run needs its --name only)",
    )
    checkpoint_every: int = Field(
        0, ge=0, description="Also save a checkpoint every so many optimizer steps; 0: each epoch only"
    )


class OptimizerOptions(Options):
    """How the loss is minimised."""

    epochs: int = Field(30, ge=1, description="Passes over the training data")
    batch_size: int = Field(64, ge=1, description="Images per worker and step")
    grad_accum_steps: int = Field(1, ge=1, description="Batches whose gradients are added up before one optimizer step")
    opt: str = Field("adamw", description="Optimizer, by timm's name")
    lr: float = Field(3e-4, gt=0, description="Learning rate at its peak (with --max-lr: where onecycle starts)")
    max_lr: float | None = Field(None, gt=0, description="Peak of the onecycle schedule; unset: --lr")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum, for optimizers that have one")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay; biases and normalisation are exempt")
    scheduler: Literal["cosine", "onecycle"] = Field("cosine", description="Learning rate schedule")
    warmup_epochs: float = Field(1.0, ge=0, description="Linear warm-up of the cosine schedule, in epochs")
    pct_start: float = Field(0.1, gt=0, lt=1, description="Rising share of the onecycle schedule")
    clip_grad: float | None = Field(None, gt=0, description="Clip the gradient to this norm")
    patience: int = Field(0, ge=0, description="Stop after so many epochs without a better validation score; 0: never")
    amp: bool = Field(True, description="Mixed precision (bfloat16)")
    grad_checkpointing: bool = Field(False, description="Recompute activations in the backward pass, to save memory")
    ema: float = Field(
        0.0, ge=0, lt=1, description="Decay of the moving average of the weights that is judged and kept; 0: off"
    )
