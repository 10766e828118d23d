"""Options of every training job: name, workers, checkpoints and optimizer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from fer.data.options import CPUS_PER_READER
from fer.options import Options
from fer.tracking import TrackingOptions
from fer.training.placement import Bundle


class ExperimentOptions(TrackingOptions):
    """Name of a run or sweep, its MLflow experiment, and the registered model it produces."""

    mutable_options: ClassVar[frozenset[str]] = frozenset()
    """Options that may change when a run of this job is resumed, besides those that may in every job."""

    name: str | None = Field(
        None,
        pattern=r"^[\w.-]+$",
        description="Name of the run; an interrupted run of this name is resumed. Unset: model and time",
    )
    experiment: str = Field("ferry", description="MLflow experiment of the run")
    register_as: str | None = Field(None, description="Register the trained model in MLflow under this name")
    alias: str = Field("challenger", description="Alias of the registered model")


class LaunchOptions(ExperimentOptions):
    """Workers, resources and fault tolerance of a training job."""

    workers: int = Field(
        1,
        ge=1,
        description="Training workers (Ray Train processes, one GPU each if there are GPUs); 2..8: as many as the "
        "cluster has room for, while it grows and shrinks",
    )
    min_workers: int | None = Field(
        None, ge=1, description="Fewest workers to train with; --workers 2..8 sets it to 2. Unset: --workers"
    )
    cpus_per_worker: float = Field(1, gt=0, description="CPUs that Ray reserves for each worker")
    worker_labels: dict[str, str] = Field(
        {}, description="Labels of the nodes that training workers run on, such as role=trainer; unset: any node"
    )
    threads: int = Field(
        0, ge=0, description="Compute threads per worker; 0: the machine's cores divided by its workers"
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Device to train on; auto: GPUs if the cluster has any"
    )
    start_timeout: float = Field(
        600, ge=0, description="Seconds to wait for the nodes of a cluster that has too few CPUs or GPUs as yet"
    )
    process_group_timeout: float = Field(
        1800, gt=0, description="Seconds that a worker waits for the others in a collective before the workers fail"
    )
    seed: int = Field(0, ge=0, description="Random seed: data order, augmentation, initial weights")
    max_failures: int = Field(3, ge=0, description="Restarts of the workers after one dies")

    @model_validator(mode="before")
    @classmethod
    def _split_range(cls, options: Any) -> Any:
        if isinstance(options, dict) and isinstance(workers := options.get("workers"), str) and ".." in workers:
            least, _, most = workers.partition("..")
            return {**options, "min_workers": least, "workers": most}
        return options

    @model_validator(mode="after")
    def _check_range(self) -> LaunchOptions:
        if self.least_workers > self.workers:
            raise ValueError(f"--min-workers {self.min_workers} is above --workers {self.workers}")
        return self

    @property
    def least_workers(self) -> int:
        """Workers that the run can't do without."""
        return self.min_workers or self.workers

    @property
    def required_cpus(self) -> float:
        """CPUs that the run occupies at least."""
        return self.cpus_of(self.least_workers)

    @property
    def gpus_per_worker(self) -> float:
        """GPUs of each worker, where there are any."""
        return 1.0

    @property
    def worker_bundle(self) -> Bundle:
        """The workers that the run can't do without."""
        gpu = {"GPU": self.gpus_per_worker} if self.device == "gpu" else {}
        resources = {"CPU": self.cpus_per_worker, **gpu}
        options = "--workers or --cpus-per-worker"
        return Bundle("training worker", self.least_workers, resources, options, self.worker_labels)

    def cpus_of(self, workers: int) -> float:
        """CPUs of a number of workers, and of the Ray Data readers that feed them (at least one CPU).

        If training reserved every CPU, Ray Data could never start, and the job would hang.
        """
        return workers * self.cpus_per_worker + max(1.0, workers * CPUS_PER_READER)


class CheckpointOptions(LaunchOptions):
    """Where to resume from, and how often to save a checkpoint."""

    resume: str | None = Field(
        None,
        description="Checkpoint to resume from, optimizer state included (an interrupted run only needs its --name)",
    )
    checkpoint_every: int = Field(
        0, ge=0, description="Save a checkpoint every N optimizer steps, besides each epoch; 0: each epoch only"
    )


class OptimizerOptions(Options):
    """Batches, optimizer and learning-rate schedule."""

    epochs: int = Field(30, ge=1, description="Passes over the training data")
    batch_size: int = Field(64, ge=1, description="Images per worker and batch")
    grad_accum_steps: int = Field(1, ge=1, description="Batches whose gradients are accumulated for one optimizer step")
    opt: str = Field("adamw", description="Optimizer: any timm optimizer name")
    lr: float = Field(3e-4, gt=0, description="Peak learning rate (with --max-lr: where onecycle starts)")
    max_lr: float | None = Field(None, gt=0, description="Peak learning rate of onecycle; unset: --lr")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum, for optimizers that use it")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay; biases and normalisation are exempt")
    scheduler: Literal["cosine", "onecycle"] = Field("cosine", description="Learning rate schedule")
    warmup_epochs: float = Field(1.0, ge=0, description="Epochs of linear warm-up before the cosine schedule")
    pct_start: float = Field(
        0.1, gt=0, lt=1, description="Fraction of the onecycle schedule in which the learning rate rises"
    )
    clip_grad: float | None = Field(None, gt=0, description="Maximum gradient norm; unset: no clipping")
    patience: int = Field(
        0, ge=0, description="Stop early after this many epochs without a better validation score; 0: never"
    )
    amp: bool = Field(True, description="Mixed precision: bfloat16, or float16 on GPUs without it")
    grad_checkpointing: bool = Field(False, description="Recompute activations in the backward pass, to save memory")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of the exponential moving average of the weights, which is validated and saved; 0: off",
    )
