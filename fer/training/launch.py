"""Launches every Ray Train job: workers, resources, storage, fault tolerance and checkpoints."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import ray
from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    Result,
    RunConfig,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.config import ScalingConfig

from fer.errors import UserError
from fer.mlflow_buffer import WORKER_FLUSH_SECONDS, flush
from fer.storage import absolute, get_filesystem, ray_storage
from fer.tracking import Run
from fer.training.elastic import ElasticWorkers
from fer.training.options import CheckpointOptions, LaunchOptions
from fer.training.preemption import PreemptionPolicy, find_preemption
from fer.training.run import RunFolder

RESIZE_SECONDS = 60.0
"""How often a group of --workers 2..8 looks for room for more workers."""
USER_ERROR = "user_error.txt"
"""File in the run's folder: the message of the UserError that ended it, which no restart would fix."""


def use_gpu(options: LaunchOptions, engine_gpus: int = 0) -> bool:
    """Whether each worker gets a GPU, beside those of the engines. Raises UserError if the cluster has too few."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if options.device == "cpu" or (options.device == "auto" and not gpus):
        return False
    if gpus < options.least_workers + engine_gpus:
        also = f", and the engines need {engine_gpus}" if engine_gpus else ""
        fit = f"--workers {gpus - engine_gpus}, or " if gpus > engine_gpus else ""
        raise UserError(
            f"the cluster has {gpus} GPUs for {options.least_workers} workers{also}: use {fit}--device cpu to do "
            "without"
        )
    return True


def keep_device(run: RunFolder, device: str) -> None:
    """Record what a run trains on. Raises UserError if it trained on GPUs before, and would go on without."""
    if device == "cpu" and run.record.get("device") == "gpu":
        raise UserError(f"run {run.name!r} has trained on GPUs, and the cluster has none now: start nodes with GPUs")
    run.update(device=device)


def loop_settings(options: CheckpointOptions, data: str, tracking: Run, **settings: Any) -> dict[str, Any]:
    """What every training loop is given, as plain values, with its own ``settings``. ``data`` is a folder of shards."""
    return {
        "config": options.model_dump(),
        "data": data,
        "tracking": asdict(tracking),
        "resume": absolute(options.resume) if options.resume else None,
        **settings,
    }


class RunStorage(NamedTuple):
    """Where Ray Train stores a run: ``<storage>/<name>``."""

    name: str
    storage: str

    @property
    def root(self) -> str:
        return f"{self.storage}/{self.name}"


class Trainer(TorchTrainer):
    """Without two of Ray Train's helper processes, each of which takes seconds to start.

    One shards Ray data sets, which are not used (see `fer.data.stream`). The other frees the workers' resources if the
    controller dies, which also ends the job; Ray then frees them anyway. Ray 2.60 has no public way to leave them out:
    `RunConfig.callbacks` only adds to the default ones.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [each for each in super()._create_default_callbacks() if not isinstance(each, unused)]  # type: ignore[misc]  # of Train V2

    def _initialize_and_run_controller(self, **arguments: Any) -> Result:
        scaling: Any = self.scaling_config
        if scaling.elasticity_enabled:
            arguments["scaling_policy"] = ElasticWorkers(scaling)
        arguments["failure_policy"] = PreemptionPolicy(self.run_config.failure_config)  # type: ignore[arg-type]  # of Train V2
        return super()._initialize_and_run_controller(**arguments)  # type: ignore[misc]  # of Train V2


class FailureLine(UserCallback):
    """Prints one line when workers fail. Runs in Ray Train's controller."""

    def __init__(self, max_failures: int, is_user_error: Callable[[], bool]) -> None:
        self.failures, self.max_failures, self.is_user_error = 0, max_failures, is_user_error

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if self.is_user_error():  # it ends the run with a line of its own
            return
        if preemption := find_preemption(worker_exceptions):
            print(f"{preemption}: going on without it, from a checkpoint of this step", flush=True)
            return
        self.failures += 1
        rank, error = min(worker_exceptions.items())
        what = (
            f"restart {self.failures} of {self.max_failures}, from the latest checkpoint"
            if self.failures <= self.max_failures
            else "no restarts are left"
        )
        print(f"worker {rank} failed ({first_line(error)}); {what}", flush=True)


def first_line(error: Exception) -> str:
    """An exception of the loop without its traceback, or why a worker does not answer."""
    error = getattr(error, "health_check_failure", error)
    if cause := getattr(error, "_base_exc", None):
        return f"{type(cause).__name__}: {cause}".splitlines()[0]
    return str(error).splitlines()[0]


def launch(
    loop: Callable[[dict[str, Any]], None],
    loop_config: dict[str, Any],
    options: LaunchOptions,
    run: RunFolder | RunStorage,
    checkpoints: CheckpointConfig | None = None,
    callbacks: Sequence[UserCallback] = (),
) -> Result:
    """Run ``loop(loop_config)`` on the workers; return the last reported metrics and the checkpoints.

    If a worker dies, the group is restarted from the latest checkpoint, up to ``max_failures`` times. A run of the same
    name resumes from its latest checkpoint. The latest checkpoint and the one with the best ``score`` are kept, unless
    ``checkpoints`` says otherwise. Raises UserError if a worker raised one.
    """
    filesystem, path = get_filesystem(f"{run.root}/{USER_ERROR}")
    if filesystem.exists(path):
        filesystem.rm_file(path)

    def run_loop(settings: dict[str, Any]) -> None:
        """Ray restarts on any exception: record a UserError, so that the next attempt ends at once."""
        if filesystem.exists(path):
            raise UserError(filesystem.cat_file(path).decode())
        try:
            loop(settings)
        except UserError as error:
            filesystem.pipe_file(path, str(error).encode())
            raise
        finally:
            flush(WORKER_FLUSH_SECONDS, announce="://" in run.storage)  # else this job's own process finds it

    failures = FailureLine(options.max_failures, partial(filesystem.exists, path))
    get_or_create_autoscaling_coordinator()  # while the controller starts, which then waits for it
    # Notice a dead worker after a second, not half a minute; allow minutes for slow imports on small machines.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    # `fer.training.preemption` looks for nodes that will be taken away.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    gpu = use_gpu(options)
    if isinstance(run, RunFolder):
        keep_device(run, "gpu" if gpu else "cpu")
    trainer = Trainer(
        run_loop,
        train_loop_config=loop_config,
        torch_config=TorchConfig(timeout_s=math.ceil(options.process_group_timeout)),
        scaling_config=ScalingConfig(
            num_workers=(options.min_workers, options.workers) if options.min_workers else options.workers,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            use_gpu=gpu,
            resources_per_worker={"CPU": options.cpus_per_worker} | ({"GPU": options.gpus_per_worker} if gpu else {}),
            label_selector=options.worker_labels or None,
        ),
        run_config=RunConfig(
            name=run.name,
            **ray_storage(run.storage),
            failure_config=FailureConfig(max_failures=options.max_failures),
            callbacks=[failures, *callbacks],  # type: ignore[list-item]  # of Train V2
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
