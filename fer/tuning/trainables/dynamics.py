"""`fer dynamics` as a trainable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from fer.data.landmarks import INDICES
from fer.dynamics.options import STAGES, DynamicsConfig
from fer.tracking import Run
from fer.tuning.trainables.base import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn
    from upath import UPath


class DynamicsTrainable:
    """Epochs are counted over all stages. The score is the mean quadratic weighted kappa of the two scores.

    Progress is measured in finished stages: metrics in the middle of a stage say little about how it will end.
    """

    job = "dynamics"
    config_class = DynamicsConfig

    def prepare_data(self, config: DynamicsConfig) -> Settings:
        from fer.dynamics.preflight import absolute_path, load_frames, make_splits

        data = load_frames(config)
        split = make_splits(config.model_copy(update={"folds": 0}), data.frames)[0]
        blendshapes = absolute_path(config.blendshapes) if config.blendshapes else None
        paths = {"data": absolute_path(config.data), "blendshapes": blendshapes}
        return {"splits": list(split), "paths": paths, "hash": data.fingerprint()}

    def train_loop(
        self, config: DynamicsConfig, data: Settings, tracking: Run, folder: UPath
    ) -> tuple[Callable[[Settings], None], Settings]:
        from fer.dynamics.stage_folders import save_initial_weights
        from fer.dynamics.train import train_dynamics

        config = config.model_copy(update=data["paths"])
        save_initial_weights(str(folder), config)
        settings = {
            "config": config.model_dump(),
            "splits": data["splits"],
            "root": str(folder),
            "tracking": {
                stage: asdict(replace(tracking, step_offset=self._epochs_before(config, stage)))
                for stage in config.stages
            },
        }
        return train_dynamics, settings

    def trial_epoch(self, config: DynamicsConfig, metrics: dict[str, Any]) -> int | None:
        return self._epochs_before(config, metrics["stage"]) + int(metrics["epoch"])

    def max_epochs(self, config: DynamicsConfig) -> int:
        return sum(config.stage(stage).epochs for stage in config.stages)

    def progress(self, config: DynamicsConfig, metrics: dict[str, Any]) -> int | None:
        stage = metrics["stage"]
        finished = metrics["epoch"] == config.stage(stage).epochs
        return [name for name in STAGES if name in config.stages].index(stage) + 1 if finished else None

    def max_progress(self, config: DynamicsConfig) -> int:
        return len(config.stages)

    def score(self, metrics: dict[str, Any]) -> float:
        return (float(metrics["val_dynamics_kappa"]) + float(metrics["val_synkinesis_kappa"])) / 2

    def network(self, config: DynamicsConfig, data: Settings) -> tuple[nn.Module, tuple[Tensor, ...]]:
        import torch

        from fer.dynamics.flow import SIDE
        from fer.dynamics.model import DynamicsModel

        landmarks = torch.zeros(1, len(INDICES), 2)
        return DynamicsModel(config), (torch.zeros(1, 3, SIDE, SIDE), landmarks, landmarks)

    def _epochs_before(self, config: DynamicsConfig, stage: str) -> int:
        """Epochs of the earlier stages."""
        earlier = STAGES[: STAGES.index(stage)]
        return sum(config.stage(name).epochs for name in earlier if name in config.stages)
