"""A planned sweep: its search space, the options that all trials share, and the points to evaluate first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fer.errors import UserError
from fer.storage import open_path
from fer.tracking import Run
from fer.tuning.options import TuneConfig
from fer.tuning.search import grid_points, grid_values
from fer.tuning.space import Point, SearchSpace, check_point
from fer.tuning.trainables.base import Trainable
from fer.tuning.trainables.registry import get_trainable
from fer.tuning.trial import TrialTemplate

if TYPE_CHECKING:
    from upath import UPath


@dataclass(frozen=True)
class Sweep:
    """What is to be run, checked by `plan_sweep`. `fer.tuning.runner` runs it."""

    config: TuneConfig
    space: SearchSpace
    """Without the hyperparameters that ``--set`` fixes."""
    base: Mapping[str, Any]
    """Options of the job that all trials share and that the space may override."""
    fixed: dict[str, Any]
    """Options of the job that ``--set`` gives every trial."""
    points: Sequence[Point]
    """Points to evaluate first; the default point is the first of them."""

    @cached_property
    def trainable(self) -> Trainable:
        return get_trainable(self.space.trainable)

    @property
    def search(self) -> str:
        return self.config.search or self.space.search

    @property
    def scheduler(self) -> str:
        return "none" if self.search == "pbt" else self.config.scheduler or self.space.scheduler

    @cached_property
    def points_to_evaluate(self) -> list[Point]:
        """``points``, and with ``--search grid`` every combination."""
        grid = grid_points(self.space.params) if self.search == "grid" else []
        return [*self.points, *(point for point in grid if point not in self.points)]

    @property
    def num_trials(self) -> int:
        default = self.grid_size if self.search == "grid" else self.space.num_trials
        return self.config.num_trials or default

    @property
    def grid_size(self) -> int:
        """Number of ``points_to_evaluate`` with ``--search grid``, without building them: there may be millions."""
        values = grid_values(self.space.params)
        outside = sum(any(point.get(name) not in values[name] for name in values) for point in self.points)
        return outside + math.prod(len(each) for each in values.values())

    def job_config(self, point: Point) -> Any:
        """The job's config at a point. Raises UserError for a combination that the job refuses."""
        return self.trial_template(open_path("."), {}, Run("", "")).job_config(point)

    def trial_template(self, folder: UPath, data: dict[str, Any], tracking: Run) -> TrialTemplate:
        return TrialTemplate(
            folder=folder,
            space=self.space,
            trainable=self.trainable,
            base=dict(self.base),
            fixed=dict(self.fixed),
            data=data,
            tracking=tracking,
            second_objective=self.config.second_objective,
            population=self.search == "pbt",
        )


def plan_sweep(config: TuneConfig, space: SearchSpace, base: Mapping[str, Any], points: Sequence[Point]) -> Sweep:
    """Check everything that can be checked before a trial starts. Raises UserError."""
    assert config.data is not None, "the options require data"
    fixed = {name: _convert(space, name, value) for name, value in config.set.items() if name in space.params}
    check_point(space, fixed, "--set")
    for number, point in enumerate(points, 1):
        check_point(space, point, f"--points, point {number}")
    fixed_options = nest_options({name: value for name, value in config.set.items() if name not in space.params})
    fixed_options |= {"data": config.data, "storage": config.storage}
    free_space = fix_params(space, fixed)
    first = [free_space.default]
    for point in ({name: point[name] for name in point if name in free_space.params} for point in points):
        first += [] if point in first else [point]
    sweep = Sweep(config, free_space, base, fixed_options, first)
    job = sweep.job_config(free_space.default)
    if sweep.search == "pbt" and (not free_space.mutable or job.workers > 1):
        raise UserError(
            "--search pbt needs mutable hyperparameters and one-worker trials: "
            + ("use --set workers=1" if free_space.mutable else f"space {config.space} has none; use another --search")
        )
    if sweep.search == "grid" and sweep.num_trials < sweep.grid_size:
        raise UserError(
            f"the grid has {sweep.grid_size:,} points, but --num-trials is {sweep.num_trials}: fix some "
            "hyperparameters (--set NAME=VALUE), leave out --num-trials, or use --search random"
        )
    return sweep


def fix_params(space: SearchSpace, fixed: Point) -> SearchSpace:
    """The space without the hyperparameters in ``fixed``. Raises UserError if none is left."""
    free = {name: domain for name, domain in space.params.items() if name not in fixed}
    if not free:
        raise UserError("--set fixes every hyperparameter of the space: leave one to search")

    def to_options(point: Point) -> dict[str, Any]:
        return space.to_options(point | fixed)

    return replace(
        space,
        params=free,
        default={name: value for name, value in space.default.items() if name in free},
        to_options=to_options,
        mutable=tuple(name for name in space.mutable if name in free),
    )


def nest_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """``{"stage_1.lr": 0.1}`` as ``{"stage_1": {"lr": 0.1}}``."""
    nested: dict[str, Any] = {}
    for name, value in options.items():
        *groups, last = name.split(".")
        target = nested
        for group in groups:
            target = target.setdefault(group, {})
        target[last] = value
    return nested


def _convert(space: SearchSpace, name: str, value: Any) -> Any:
    """Convert a value from the command line, a string, to the choice or number it stands for."""
    if not isinstance(value, str):
        return value
    choices = getattr(space.params[name], "categories", None)
    if choices is not None:
        return next((choice for choice in choices if str(choice) == value), value)
    try:
        return int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        return value
