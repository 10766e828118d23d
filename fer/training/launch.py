"""One launcher for every Ray Train job: workers, storage, failures and checkpoints. A loop knows nothing of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import fsspec
import ray
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    Result,
    RunConfig,
    ScalingConfig,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer

from fer.data.stream.reader import CPUS_PER_READER
from fer.errors import UserError
from fer.training.options import LaunchOptions
from fer.training.run import RunFolder

MISTAKE = "mistake.txt"
"""File of a run's folder with the error that ended it, if it was the user's to mend."""


def cpus_needed(options: LaunchOptions) -> float:
    """CPUs that a run occupies: its workers and, at least one CPU, their readers.

    If training held every CPU, Ray Data could not read and no first row would ever come.
    """
    return options.workers * options.cpus_per_worker + max(1.0, options.workers * CPUS_PER_READER)


def use_gpu(options: LaunchOptions, others: int = 0) -> bool:
    """Whether the workers get GPUs, and ``others`` beside them. Raises UserError if they are asked for and too few."""
    gpus = ray.cluster_resources().get("GPU", 0)
    needed = options.workers + others
    if options.device == "gpu" and gpus < needed:
        beside = f" and {others} engines" if others else ""
        raise UserError(
            f"--device gpu: the cluster has {gpus:g} GPUs for {options.workers} workers{beside}; use fewer --workers"
        )
    return options.device != "cpu" and gpus >= needed


class Place(NamedTuple):
    """Where Ray Train keeps its checkpoints: ``<storage>/<name>``."""

    name: str
    storage: str

    @property
    def root(self) -> str:
        return f"{self.storage}/{self.name}"


def launch(
    loop: Callable[[dict[str, Any]], None],
    loop_config: dict[str, Any],
    options: LaunchOptions,
    run: RunFolder | Place,
    checkpoints: CheckpointConfig | None = None,
    callbacks: Sequence[UserCallback] = (),
) -> Result:
    """Run ``loop(loop_config)`` on the workers; return the last report, the checkpoints and the metrics.

    A worker that dies takes the group down with it; the group starts again from the last checkpoint, up to
    ``max_failures`` times. A run of the same name continues from its last checkpoint. The last checkpoint is kept and
    the one of the best ``score``, unless ``checkpoints`` says otherwise. ``callbacks`` hear of every report. Raises
    UserError if a worker did.
    """
    filesystem, path = fsspec.url_to_fs(f"{run.root}/{MISTAKE}")
    if filesystem.exists(path):
        filesystem.rm_file(path)

    def told(settings: dict[str, Any]) -> None:
        """Ray starts again what a person has to mend: leave word of it, so that the next attempt ends at once."""
        if filesystem.exists(path):
            raise UserError(filesystem.cat_file(path).decode())
        try:
            loop(settings)
        except UserError as error:
            filesystem.pipe_file(path, str(error).encode())
            raise

    # Seconds, not the default half minute, until a dead worker is noticed; minutes for slow imports on small machines.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    trainer = TorchTrainer(
        told,
        train_loop_config=loop_config,
        scaling_config=ScalingConfig(
            num_workers=options.workers,
            use_gpu=use_gpu(options),
            resources_per_worker={"CPU": options.cpus_per_worker} | ({"GPU": 1} if use_gpu(options) else {}),
        ),
        run_config=RunConfig(
            name=run.name,
            storage_path=run.storage,
            failure_config=FailureConfig(max_failures=options.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]  # of Train V2
            callbacks=list(callbacks),  # type: ignore[arg-type]  # of Train V2
            checkpoint_config=checkpoints
            or CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="score", checkpoint_score_order="max"),
        ),
    )
    try:
        return trainer.fit()
    except WorkerGroupError:
        if filesystem.exists(path):
            raise UserError(filesystem.cat_file(path).decode()) from None
        raise
