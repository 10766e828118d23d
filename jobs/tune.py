"""`fer tune`: search for good hyperparameters with Ray Tune, and report what was found."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from fer.errors import UserError
from fer.plugins import Registry
from fer.training.options import ExperimentOptions
from fer.tuning.options import TuneConfig

if TYPE_CHECKING:
    from fer.tuning.record import Record
    from fer.tuning.space import Point, Space
    from fer.tuning.sweep import Campaign

Config = TuneConfig
RECIPES = Path(__file__).parent / "recipes"


def main(config: TuneConfig) -> None:
    """Run the campaign that ``config`` says; a stopped campaign of the same name is continued."""
    space = find_space(config.space)
    if config.show:
        show(config.space, space)
        return

    from cluster.local import connect
    from fer.training.launch import required_cpus
    from fer.tuning.report import write_report
    from fer.tuning.sweep import plan_campaign, run_campaign
    from fer.tuning.trainables.registry import training_for

    base = read_base(config.base, training_for(space.trains).job)
    campaign = plan_campaign(config, space, base, read_points(config.points))
    told = earlier(config, campaign.space)
    connect(required_cpus(campaign.job_config(campaign.space.default)))
    run, records, parent = run_campaign(campaign, told)
    summary = write_report(campaign, run, records, parent)
    parent.finish()
    print(f"\n{summary}\nReport:  {run.root}/report.html")
    if config.register_as:
        retrain_winner(campaign, run.name, records)


def retrain_winner(campaign: Campaign, name: str, records: list[Record]) -> None:
    """Train the winner by its own job, as anybody would who read the report, and register what comes of it."""
    from fer.tuning.record import ranked

    best = ranked(records)
    if not best:
        raise UserError("--register-as: no trial succeeded, so there is nothing to register")
    kept = {
        "name": f"{name}-winner",
        **campaign.config.model_dump(include={*ExperimentOptions.model_fields} - {"name"}),
    }
    job = import_module(f"jobs.{campaign.training.job}")
    print(f"\nTraining the winner, {best[0].name}, as {name}-winner")
    job.main(campaign.job_config(best[0].point).model_copy(update=kept))


def find_space(name: str) -> Space:
    """A space by the name of its file in `tune_spaces`, of an entry point, or as ``module:SPACE``. Raises UserError."""
    import tune_spaces
    from fer.tuning.space import Space

    files = sorted(module.name for module in iter_modules(tune_spaces.__path__))
    registry = Registry("--space", "fer.tune_spaces", {file: f"tune_spaces.{file}:SPACE" for file in files})
    found = registry.load(name)
    if not isinstance(found, Space):
        raise UserError(f"--space {name}: not a Space")
    return found


def show(name: str, space: Space) -> None:
    """The space as a table."""
    import rich
    from rich.table import Table

    from fer.tuning.space import describe

    table = Table(title=f"{name}: {space.purpose}", title_justify="left", caption_justify="left")
    table.caption = (
        f"{space.num_trials} trials, {space.search}, early stopping {space.scheduler} (one of {space.reduction} goes "
        f"on after {space.grace}, {space.grace * space.reduction}, …); optimises {space.optimises}"
    )
    for column in ("dimension", "range", "default"):
        table.add_column(column)
    for dimension, domain in space.vary.items():
        table.add_row(dimension, describe(domain), str(space.default[dimension]))
    rich.print(table)


def read_base(base: str | None, job: str) -> dict[str, Any]:
    """Options of a YAML file, or of a recipe of the job."""
    if base is None:
        return {}
    for file in (Path(base), RECIPES / job / f"{base}.yaml"):
        if file.is_file():
            options = read_yaml(file)
            if not isinstance(options, Mapping):
                raise UserError(f"--base {file}: not a list of options and values")
            return dict(options)
    raise UserError(f"--base: no file {base!r}, and no recipe of `fer {job}` of that name")


def read_points(file: str | None) -> list[Point]:
    """Points to be tried first."""
    if file is None:
        return []
    if not Path(file).is_file():
        raise UserError(f"--points: no file {file!r}")
    points = read_yaml(Path(file))
    if not isinstance(points, list) or not all(isinstance(point, Mapping) for point in points):
        raise UserError(f"--points {file}: not a list of points, each with names of dimensions and their values")
    return [dict(point) for point in points]


def read_yaml(file: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from None


def earlier(config: TuneConfig, space: Space) -> list[Record]:
    """Trials of the campaign to begin with. Raises UserError if there is none, or none that fits the space."""
    if config.warm_start is None:
        return []
    from fer.tuning.record import read_all
    from fer.tuning.space import fits

    folders = [Path(config.warm_start), Path(config.out_dir) / config.warm_start]
    records = next((found for folder in folders if (found := read_all(folder))), [])
    if not records:
        raise UserError(f"--warm-start: no campaign {config.warm_start!r} in {config.out_dir}")
    told = [record for record in records if record.best and fits(space, record.point)]
    if config.against:
        told = [record for record in told if record.best and config.against in record.best]
    if not told:
        raise UserError(f"--warm-start {config.warm_start}: none of its {len(records)} trials lies in this space")
    print(f"{len(told)} of {len(records)} trials of {config.warm_start} are known to the search", flush=True)
    return told


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("tune"))
