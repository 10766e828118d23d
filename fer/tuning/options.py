"""Options of `fer tune`: which space, how it is searched, and how much is spent. Plain values, no Ray."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from fer.training.options import ExperimentOptions


class TuneConfig(ExperimentOptions):
    """Search for good hyperparameters: many trainings, the poor ones stopped early, all of them recorded."""

    space: str = Field(
        description="What varies: the name of a file in tune_spaces, such as classifier or fusion, that of a space of "
        "an installed package, or module:SPACE of your own"
    )
    show: bool = Field(False, description="Print the space as a table, and stop")
    data: str | None = Field(None, description="Data set of every trial, as the job itself takes it")
    base: str | None = Field(
        None, description="Options that all trials share: a YAML file, or a recipe of the job that is tuned"
    )
    fix: dict[str, Any] = Field(
        {},
        description="One dimension of the space, or option of the job, that has this value in every trial: "
        "--fix epochs=8 --fix workers=2",
    )
    search: Literal["tpe", "random", "grid", "pbt"] | None = Field(
        None,
        description="Who proposes trials: Optuna's TPE, chance, a grid, or population based training; unset: the space",
    )
    scheduler: Literal["asha", "none"] | None = Field(
        None, description="Stop poor trials early (ASHA), or let all of them run to the end; unset: the space says"
    )
    against: Literal["latency", "size"] | None = Field(
        None,
        description="Optimise two things: the score, and milliseconds for an image or millions of weights",
    )
    num_trials: int | None = Field(None, ge=1, description="Trials in all, the default among them; unset: the space")
    time_budget: float | None = Field(None, gt=0, description="Minutes in all; trials under way are left unfinished")
    max_concurrent: int | None = Field(None, ge=1, description="Trials at a time; unset: as many as the cluster holds")
    gpus_per_trial: float = Field(
        1.0, gt=0, le=1, description="Share of a GPU for a trial of one worker; two workers and more have a GPU each"
    )
    points: str | None = Field(None, description="YAML file with a list of points to try first")
    warm_start: str | None = Field(
        None, description="Begin with what an earlier campaign of the same space found: its name or folder"
    )
    seed: int = Field(0, ge=0, description="Seed of the search; of the trainings it is --fix seed=1")

    @model_validator(mode="after")
    def _fits_together(self) -> TuneConfig:
        if self.data is None and not self.show:
            raise ValueError("--data is required (or --show, to see the space)")
        if self.search == "pbt" and self.against:
            raise ValueError("--search pbt has one objective: leave out --against")
        return self
