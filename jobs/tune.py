"""`fer tune`: run a hyperparameter sweep on Ray Tune and report its results."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from fer.errors import UserError
from fer.options import read_yaml
from fer.plugins import Registry
from fer.training.options import ExperimentOptions
from fer.tuning.options import TuneConfig

if TYPE_CHECKING:
    from fer.tuning.space import Point, SearchSpace
    from fer.tuning.sweep import Sweep
    from fer.tuning.trial_record import TrialRecord

Config = TuneConfig
RECIPES = Path(__file__).parent / "recipes"


def main(config: TuneConfig) -> None:
    """Run the sweep; an interrupted sweep of the same name is resumed."""
    space = find_space(config.space)
    if config.show:
        print_space(config.space, space)
        return

    from cluster.logs import log_file
    from cluster.preflight import connect_for
    from fer.tuning.sweep import plan_sweep
    from fer.tuning.trainables.registry import get_trainable

    base = read_base(config.base, get_trainable(space.trainable).job)
    sweep = plan_sweep(config, space, base, read_points(config.points))
    warm_start = read_warm_start(config, sweep.space)
    job = sweep.job_config(sweep.space.default)
    connect_for(job, meanwhile=["fer.tuning.report", "mlflow.tracking"])

    from fer.tuning.report import write_report
    from fer.tuning.runner import run_sweep

    run, records, parent = run_sweep(sweep, warm_start)
    summary = write_report(sweep, run, records, parent)
    parent.finish()
    print(f"\n{summary}\nReport:    {run.root}/report.html\nRay's log: {log_file()}")
    if config.register_as:
        retrain_best(sweep, run.name, records)


def retrain_best(sweep: Sweep, name: str, records: list[TrialRecord]) -> None:
    """Train the best trial again with its own job, in a run of its own, and register the model."""
    from fer.tuning.trial_record import ranked

    best = next(iter(ranked(records)), None)
    if best is None:
        raise UserError("--register-as: no trial succeeded, so there is no model to register")
    run_options = {**sweep.config.model_dump(include={*ExperimentOptions.model_fields}), "name": f"{name}-best"}
    job = import_module(f"jobs.{sweep.trainable.job}")
    print(f"\nTraining the best trial, {best.name}, again as {name}-best")
    job.main(sweep.job_config(best.point).model_copy(update=run_options))


def find_space(name: str) -> SearchSpace:
    """The space of a file in `tune_spaces`, of an entry point, or of ``module:SPACE``. Raises UserError."""
    import tune_spaces
    from fer.tuning.space import SearchSpace

    files = sorted(module.name for module in iter_modules(tune_spaces.__path__))
    registry = Registry("--space", "fer.tune_spaces", {file: f"tune_spaces.{file}:SPACE" for file in files})
    space = registry.load(name)
    if not isinstance(space, SearchSpace):
        raise UserError(f"--space {name}: not a SearchSpace")
    return space


def print_space(name: str, space: SearchSpace) -> None:
    """Print a search space as a table."""
    import rich
    from rich.table import Table

    from fer.tuning.space import format_domain

    table = Table(title=f"{name}: {space.description}", title_justify="left", caption_justify="left")
    table.caption = (
        f"{space.num_trials} trials; search {space.search}; scheduler {space.scheduler}, grace period "
        f"{space.grace_period}, reduction factor {space.reduction_factor}; maximises {space.metric}"
    )
    for column in ("hyperparameter", "range", "default"):
        table.add_column(column)
    for param, domain in space.params.items():
        table.add_row(param, format_domain(domain), str(space.default[param]))
    rich.print(table)


def read_base(base: str | None, job: str) -> dict[str, Any]:
    """The options of a YAML file or of a recipe of the job."""
    if base is None:
        return {}
    for file in (Path(base), RECIPES / job / f"{base}.yaml"):
        if file.is_file():
            options = read_yaml(file)
            if not isinstance(options, Mapping):
                raise UserError(f"--base {file}: not a mapping of options to values")
            return dict(options)
    raise UserError(f"--base: no file {base!r}, and `fer {job}` has no recipe of that name")


def read_points(file: str | None) -> list[Point]:
    """The points to evaluate first."""
    if file is None:
        return []
    if not Path(file).is_file():
        raise UserError(f"--points: no file {file!r}")
    points = read_yaml(Path(file))
    if not isinstance(points, list) or not all(isinstance(point, Mapping) for point in points):
        raise UserError(f"--points {file}: not a list of points, each a mapping of hyperparameters to values")
    return [dict(point) for point in points]


def read_warm_start(config: TuneConfig, space: SearchSpace) -> list[TrialRecord]:
    """The usable trials of the sweep that ``--warm-start`` names. Raises UserError if there are none."""
    if config.warm_start is None:
        return []
    from fer.storage import is_uri, open_path
    from fer.tuning.space import contains
    from fer.tuning.trial_record import read_records

    folders = [config.warm_start]
    folders += [] if is_uri(config.warm_start) else [f"{config.storage}/{config.warm_start}"]
    records = next((found for folder in folders if (found := read_records(open_path(folder)))), [])
    if not records:
        raise UserError(f"--warm-start: no sweep {config.warm_start!r} in {config.storage}")
    usable = [record for record in records if record.best and contains(space, record.point)]
    if config.second_objective:
        usable = [record for record in usable if record.best and config.second_objective in record.best]
    if not usable:
        raise UserError(f"--warm-start {config.warm_start}: none of its {len(records)} trials is in this search space")
    print(f"warm start with {len(usable)} of {len(records)} trials of {config.warm_start}", flush=True)
    return usable


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("tune"))
