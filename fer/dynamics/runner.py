"""Runs the training of the stages on a connected Ray: launches it, or resumes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ray.train import CheckpointConfig, UserCallback

from fer.dynamics.options import STAGES, DynamicsConfig
from fer.dynamics.preflight import FrameDataset, absolute_path
from fer.dynamics.stage_folders import finished_stages, save_initial_weights
from fer.dynamics.train import train_dynamics
from fer.tracking import Run, start_run
from fer.training.launch import launch
from fer.training.run import RunFolder, open_run

REJECTED_FRAMES = "rejected.jsonl"


@dataclass(frozen=True)
class StagedRun:
    """A run whose requested stages are finished."""

    folder: RunFolder
    tracking: Run
    stages: dict[str, Run]
    """MLflow run of each requested stage, nested in ``tracking``."""


def open_dynamics_run(config: DynamicsConfig, data: FrameDataset, parent: Run | None = None) -> tuple[RunFolder, Run]:
    """The run's folder and its MLflow run, new or resumed. Raises UserError if options or data have changed."""
    folder, tracking = open_run(config, "dynamics", "dynamics", data.fingerprint(), parent)
    rejected = [json.dumps({"path": path, "reason": reason}) for path, reason in data.rejected.items()]
    folder.write(REJECTED_FRAMES, "".join(f"{line}\n" for line in rejected))
    return folder, tracking


def train_stages(
    config: DynamicsConfig,
    data: FrameDataset,
    splits: Sequence[str],
    parent: Run | None = None,
    callbacks: Sequence[UserCallback] = (),
) -> StagedRun:
    """Train the requested stages that are not finished.

    Each epoch is reported with its stage and number, its losses, and val_SCORE_mse, _kappa and _accuracy of each score.
    """
    folder, tracking = open_dynamics_run(config, data, parent)
    save_initial_weights(folder.root, config)
    known: dict[str, str] = folder.record.get("stage_runs", {})
    stages: dict[str, Run] = {}
    for name in (name for name in STAGES if name in config.stages):
        stages[name] = start_run(config, config.experiment, f"{folder.name}, stage {name}", known.get(name), tracking)
        stages[name].log_params(config.stage(name).model_dump())
    folder.update(stage_runs=known | {name: run.run_id for name, run in stages.items()})
    finished = finished_stages(folder.root)
    if any(name not in finished for name in stages):
        settings = {
            "config": config.model_copy(update={"data": absolute_path(config.data)}).model_dump(),
            "splits": list(splits),
            "root": folder.root,
            "tracking": {name: asdict(run) for name, run in stages.items()},
        }
        launch(train_dynamics, settings, config, folder, CheckpointConfig(num_to_keep=1), callbacks)
    for run in stages.values():
        run.finish()
    return StagedRun(folder, tracking, stages)
