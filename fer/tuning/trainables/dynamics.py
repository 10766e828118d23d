"""How a campaign sees `fer dynamics`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fer.dynamics.options import STAGES, DynamicsConfig
from fer.tracking import Run
from fer.tuning.trainables.base import Settings

LANDMARKS = 146


class DynamicsTraining:
    """Rounds are the epochs of all stages, one after the other; the score is the mean QWK of the two scores.

    Rungs are stages: trials are compared by what a stage has made of them when it is over, not while it learns.
    """

    job = "dynamics"
    config_class = DynamicsConfig

    def open_data(self, config: DynamicsConfig) -> Settings:
        from fer.dynamics.preflight import absolute, open_frames, plan_splits

        data = open_frames(config)
        split = plan_splits(config.model_copy(update={"folds": 0}), data.frames)[0]
        blendshapes = absolute(config.blendshapes) if config.blendshapes else None
        return {"splits": list(split), "paths": {"data": absolute(config.data), "blendshapes": blendshapes}}

    def loop(
        self, config: DynamicsConfig, data: Settings, tracking: Run, folder: Path
    ) -> tuple[Callable[[Settings], None], Settings]:
        from fer.dynamics.stages import start
        from fer.dynamics.train import train

        config = config.model_copy(update=data["paths"])
        start(str(folder), config)
        run = {"uri": tracking.uri, "run_id": tracking.run_id}
        settings = {
            "config": config.model_dump(),
            "splits": data["splits"],
            "root": str(folder),
            "tracking": {stage: run | {"step_offset": self._before(config, stage)} for stage in config.stages},
        }
        return train, settings

    def round(self, config: DynamicsConfig, figures: dict[str, Any]) -> int | None:
        return self._before(config, figures["stage"]) + int(figures["epoch"])

    def rounds(self, config: DynamicsConfig) -> int:
        return sum(config.stage(stage).epochs for stage in config.stages)

    def rung(self, config: DynamicsConfig, figures: dict[str, Any]) -> int | None:
        stage = figures["stage"]
        over = figures["epoch"] == config.stage(stage).epochs
        return [name for name in STAGES if name in config.stages].index(stage) + 1 if over else None

    def rungs(self, config: DynamicsConfig) -> int:
        return len(config.stages)

    def score(self, figures: dict[str, Any]) -> float:
        return (float(figures["val_dynamics_kappa"]) + float(figures["val_synkinesis_kappa"])) / 2

    def network(self, config: DynamicsConfig, data: Settings) -> tuple[nn.Module, tuple[Tensor, ...]]:
        from fer.dynamics.flow import SIDE
        from fer.dynamics.model import DynamicsModel

        landmarks = torch.zeros(1, LANDMARKS, 2)
        return DynamicsModel(config), (torch.zeros(1, 3, SIDE, SIDE), landmarks, landmarks)

    def _before(self, config: DynamicsConfig, stage: str) -> int:
        """Epochs of the stages before this one."""
        earlier = STAGES[: STAGES.index(stage)]
        return sum(config.stage(name).epochs for name in earlier if name in config.stages)
