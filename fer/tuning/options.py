"""Options of `fer tune`: the search space, the search algorithm, and the budget. Plain values, no Ray."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from fer.training.options import ExperimentOptions


class TuneConfig(ExperimentOptions):
    """Run a hyperparameter sweep: many trials, poor ones stopped early, all of them recorded."""

    space: str = Field(
        description="Search space: the name of a file in tune_spaces, such as classifier or fusion, or of an installed "
        "package's space, or your own as module:SPACE"
    )
    show: bool = Field(False, description="Print the search space as a table and exit")
    data: str | None = Field(None, description="Data set of every trial, in the form that the tuned job takes")
    base: str | None = Field(
        None, description="Options shared by all trials: a YAML file, or the name of a recipe of the tuned job"
    )
    set: dict[str, Any] = Field(
        {},
        description="Fix a hyperparameter of the space, or any option of the tuned job, to one value in every trial: "
        "--set epochs=8 --set workers=2",
    )
    search: Literal["tpe", "random", "grid", "pbt"] | None = Field(
        None,
        description="Search algorithm: Optuna's TPE, random, grid, or population based training; "
        "unset: the search space's choice",
    )
    scheduler: Literal["asha", "none"] | None = Field(
        None, description="Stop poor trials early (asha), or run all to the end; unset: the search space's choice"
    )
    second_objective: Literal["latency", "size"] | None = Field(
        None,
        description="Also minimise a cost: latency (milliseconds per image) or size (millions of parameters)",
    )
    num_trials: int | None = Field(
        None, ge=1, description="Total number of trials, the default one included; unset: the search space's number"
    )
    time_budget: float | None = Field(
        None, gt=0, description="Total minutes; trials still running at the end are left unfinished"
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="Most trials at a time; unset: as many as the cluster has room for"
    )
    gpus_per_trial: float = Field(
        1.0, gt=0, le=1, description="GPU share of a one-worker trial; with more workers, each gets a whole GPU"
    )
    points: str | None = Field(None, description="YAML file with a list of points to evaluate first")
    warm_start: str | None = Field(
        None, description="Initialise the search with the trials of an earlier sweep of this space: its name or folder"
    )
    seed: int = Field(0, ge=0, description="Seed of the search; the trials' own seed is set with --set seed=1")

    @model_validator(mode="after")
    def _fits_together(self) -> TuneConfig:
        if self.data is None and not self.show:
            raise ValueError("--data is required (or --show, to print the search space)")
        if self.search == "pbt" and self.second_objective:
            raise ValueError("--search pbt has one objective: leave out --second-objective")
        return self
