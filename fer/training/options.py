"""Options of a run: its name and place, its workers, its tracking. Every Ray Train job has them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fer.options import Options


class TrackingOptions(Options):
    """Where runs, metrics and registered models are kept."""

    out_dir: str = Field(
        "runs", description="Folder for runs, checkpoints and MLflow's database; local or a URI that all nodes reach"
    )
    tracking_uri: str | None = Field(
        None, description="MLflow server or database; unset: MLFLOW_TRACKING_URI, else SQLite in --out-dir"
    )


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
