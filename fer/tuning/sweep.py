"""A campaign: its folder, what was tried before, and Ray Tune's run over what is left."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import ray
import ray.tune
from ray.tune.search.basic_variant import BasicVariantGenerator

from fer.errors import UserError
from fer.tracking import Run, start_run
from fer.training.launch import required_cpus
from fer.training.run import RunFolder
from fer.tuning.callback import Watch
from fer.tuning.options import TuneConfig
from fer.tuning.record import Record, read_all
from fer.tuning.scheduler import make_scheduler
from fer.tuning.search import CampaignSearch, draw, grid, make_sampler, make_study
from fer.tuning.space import Point, Space, check_point
from fer.tuning.trainables.base import Training
from fer.tuning.trainables.registry import training_for
from fer.tuning.trial import Plan, run_trial


@dataclass(frozen=True)
class Campaign:
    """What is to be done. Nothing here starts anything."""

    config: TuneConfig
    space: Space
    """Without the dimensions that are fixed."""
    base: Mapping[str, Any]
    """Options of the job that the space doesn't vary."""
    fixed: dict[str, Any]
    """Options of the job that ``--fix`` sets in every trial."""
    points: Sequence[Point]
    """To be tried first, the default point before the others."""

    @cached_property
    def training(self) -> Training:
        return training_for(self.space.trains)

    @property
    def search(self) -> str:
        return self.config.search or self.space.search

    @property
    def scheduler(self) -> str:
        return "none" if self.search == "pbt" else self.config.scheduler or self.space.scheduler

    @cached_property
    def grid(self) -> list[Point]:
        """The default point, those given, and every combination."""
        combinations = grid(self.space.vary) if self.search == "grid" else []
        return [*self.points, *(point for point in combinations if point not in self.points)]

    @property
    def num_trials(self) -> int:
        return self.config.num_trials or (len(self.grid) if self.search == "grid" else self.space.num_trials)

    def job_config(self, point: Point) -> Any:
        """Options of the job at a point. Raises UserError for a combination that the job refuses."""
        return self.plan(Path(), {}, "").config(point)

    def plan(self, folder: Path, data: dict[str, Any], tracking_uri: str) -> Plan:
        return Plan(
            folder=folder,
            space=self.space,
            training=self.training,
            base=dict(self.base),
            fixed=dict(self.fixed),
            data=data,
            tracking_uri=tracking_uri,
            against=self.config.against,
            population=self.search == "pbt",
        )


def plan_campaign(config: TuneConfig, space: Space, base: Mapping[str, Any], points: Sequence[Point]) -> Campaign:
    """Check everything that can be checked before a trial starts. Raises UserError."""
    assert config.data is not None, "the options ask for data"
    if "://" in config.out_dir:
        raise UserError(f"--out-dir {config.out_dir}: a campaign keeps its records in a folder that all nodes see")
    fixed = {name: _typed(space, name, value) for name, value in config.fix.items() if name in space.vary}
    check_point(space, fixed, "--fix")
    for number, point in enumerate(points, 1):
        check_point(space, point, f"--points, point {number}")
    options_fixed = nest({name: value for name, value in config.fix.items() if name not in space.vary})
    options_fixed |= {"data": config.data, "out_dir": config.out_dir}
    whole = space

    def options(point: Point) -> dict[str, Any]:
        return whole.options(point | fixed)

    free = {name: domain for name, domain in space.vary.items() if name not in fixed}
    if not free:
        raise UserError("--fix leaves no dimension of the space to vary")
    space = replace(
        space,
        vary=free,
        default={name: value for name, value in space.default.items() if name in free},
        options=options,
        mutable=tuple(name for name in space.mutable if name in free),
    )
    first = [space.default, *({name: point[name] for name in point if name in free} for point in points)]
    campaign = Campaign(config, space, base, options_fixed, first)
    job = campaign.job_config(space.default)
    if campaign.search == "pbt" and (not space.mutable or job.workers > 1):
        raise UserError(
            "--search pbt needs dimensions that may change while a trial runs, and trials of one worker: "
            + ("--fix workers=1" if space.mutable else f"space {config.space} names none; use another --search")
        )
    if campaign.search == "grid" and campaign.num_trials < len(campaign.grid):
        raise UserError(
            f"the grid has {len(campaign.grid):,} points, and --num-trials is {campaign.num_trials}: fix some "
            "dimensions (--fix NAME=VALUE), leave out --num-trials, or use --search random"
        )
    return campaign


def nest(options: Mapping[str, Any]) -> dict[str, Any]:
    """``{"stage_1.lr": 0.1}`` as ``{"stage_1": {"lr": 0.1}}``."""
    nested: dict[str, Any] = {}
    for name, value in options.items():
        *groups, last = name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return nested


def _typed(space: Space, name: str, value: Any) -> Any:
    """A value from the command line is text: the choice it names, or the number it writes."""
    if not isinstance(value, str):
        return value
    choices = getattr(space.vary[name], "categories", None)
    if choices is not None:
        return next((choice for choice in choices if str(choice) == value), value)
    try:
        return int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        return value


def places(job: Any, config: TuneConfig) -> int:
    """How many trials the cluster runs at a time, leaving CPUs for reading data. Raises UserError if asked for more."""
    have, need = ray.cluster_resources().get("CPU", 0), required_cpus(job)
    fit = int(have // need)
    why = f"a trial needs {need:g} CPUs ({job.workers} worker(s), and what reads their data), and there are {have:g}"
    gpus = ray.cluster_resources().get("GPU", 0)
    if gpus and job.device != "cpu":
        each = config.gpus_per_trial if job.workers == 1 else job.workers
        if gpus // each < fit:
            fit, why = int(gpus // each), f"a trial has {each:g} GPUs, and there are {gpus:g}"
    elif job.device == "gpu":
        raise UserError("--fix device=gpu: the cluster has no GPU")
    wanted = config.max_concurrent
    if fit < max(1, wanted or 1):
        raise UserError(
            f"--max-concurrent {wanted or 1} can't be scheduled: {why}; "
            + (f"use --max-concurrent {fit}" if fit else "use fewer workers: --fix workers=1")
        )
    at_a_time = wanted or fit
    print(f"{at_a_time} trial(s) at a time: {why}", flush=True)
    return at_a_time


def run_campaign(campaign: Campaign, told: Sequence[Record]) -> tuple[RunFolder, list[Record], Run]:
    """Run the trials that are left; all records, and the campaign's MLflow run, which stays open.

    ``told`` are trials of another campaign that the searcher is to know.
    """
    config, space = campaign.config, campaign.space
    job = campaign.job_config(space.default)
    at_a_time = places(job, config)
    data = campaign.training.open_data(job)
    run = RunFolder(config, "tune", default_name=config.space.replace(":", "-"))
    if run.record.get("base", dict(campaign.base)) != dict(campaign.base):
        raise UserError(f"campaign {run.name!r} began with other options in --base: choose another --name")
    folder = Path(run.root)
    parent = start_run(config, config.experiment, run.name, run.record.get("mlflow_run_id"))
    run.update(mlflow_run_id=parent.run_id, base=dict(campaign.base))
    parent.log_params(config.model_dump())

    rounds = campaign.training.rounds(job)
    watch = Watch(folder, run.name, config, parent, campaign.num_trials, rounds)
    watch.take_up(read_all(folder))
    left = campaign.num_trials - sum(record.state != "running" for record in watch.records.values())
    sessions = run.record.get("sessions", [])
    spent = sum(session["ended"] - session["began"] for session in sessions)
    minutes = None if config.time_budget is None else config.time_budget - spent / 60
    if left <= 0 or (minutes is not None and minutes <= 0):
        print(f"campaign {run.name}: nothing left to do", flush=True)
        return run, list(watch.records.values()), parent

    before = [record for record in watch.records.values() if record.state != "running"]
    watch.scheduler = make_scheduler(space, campaign.search, campaign.scheduler, campaign.training.rungs(job), before)
    searcher, choices = _searcher(campaign, watch, before, told)
    threads = job.threads or max(1, (os.cpu_count() or 1) // (at_a_time * job.workers))
    plan = campaign.plan(folder, data, parent.uri)
    plan.fixed["threads"] = threads
    print(
        f"campaign {run.name}: {campaign.num_trials} trials of up to {rounds} rounds, {left} left; "
        f"{campaign.search}, early stopping {campaign.scheduler}",
        flush=True,
    )
    began = time.time()

    def log_time() -> None:
        """At every report, so that a killed session's time counts too."""
        run.update(sessions=[*sessions, {"began": began, "ended": time.time()}], at_a_time=at_a_time)

    watch.on_report = log_time
    log_time()
    _tune(campaign, plan, watch, (searcher, choices), at_a_time, left, minutes)
    log_time()
    return run, list(watch.records.values()), parent


def _searcher(campaign: Campaign, watch: Watch, before: Sequence[Record], told: Sequence[Record]) -> tuple[Any, dict]:
    """Who proposes trials, and what it chooses from, as Ray Tune takes them.

    Interrupted trials are proposed first, then the points that are given and not tried yet, then new ones.
    """
    config, space = campaign.config, campaign.space
    tried = [record.point for record in before]
    first = [record.point for record in watch.unfinished]
    known = [*tried, *first]
    first += [point for point in campaign.grid if not any(point.items() <= each.items() for each in known)]
    if campaign.search == "pbt":
        left = campaign.num_trials - len(before)
        population = draw(space.vary, first, left, config.seed + len(before))
        proposals = [watch.start(point) for point in population]
        return BasicVariantGenerator(), {"trial": ray.tune.grid_search(proposals)}
    storage = optuna.storages.InMemoryStorage()
    sampler = make_sampler(campaign.search, config.seed, len(before))
    study = make_study(space.vary, [*told, *before], config.against, sampler, storage)
    for point in first:
        study.enqueue_trial(point)
    return CampaignSearch(space.vary, watch.start, config.against, sampler, storage), {}


def _tune(
    campaign: Campaign,
    plan: Plan,
    watch: Watch,
    search: tuple[Any, dict],
    at_a_time: int,
    left: int,
    minutes: float | None,
) -> None:
    """Ray Tune's part."""
    job = campaign.job_config(campaign.space.default)
    alone, population = job.workers == 1, campaign.search == "pbt"
    searcher, choices = search
    cpus = job.cpus_per_worker if alone else 0.01
    if population:
        # Tune holds trials back by resources alone here: each takes so much that no more than the right number fit.
        cpus = ray.cluster_resources()["CPU"] / (at_a_time + 1) + 0.01
    gpus = campaign.config.gpus_per_trial if alone and job.device != "cpu" and ray.cluster_resources().get("GPU") else 0
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # Tune's table, not its newer panels, which repeat every trial's figures
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    reporter = ray.tune.CLIReporter(
        parameter_columns={f"trial/point/{name}": name for name in campaign.space.vary},
        metric_columns={"round": "round", "score": "score", "best_score": "best"},
        max_report_frequency=60,
        print_intermediate_tables=True,
    )
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(
            ray.tune.with_parameters(run_trial, plan=plan), {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        ),
        param_space=choices,
        tune_config=ray.tune.TuneConfig(
            search_alg=searcher,
            scheduler=watch.scheduler,
            num_samples=1 if population else left,
            max_concurrent_trials=None if population else at_a_time,
            time_budget_s=None if minutes is None else minutes * 60,
            reuse_actors=alone,
            trial_dirname_creator=lambda trial: f"trial-{trial.config['trial']['number']:03}",
            trial_name_creator=lambda trial: f"trial-{trial.config['trial']['number']:03}",
        ),
        run_config=ray.tune.RunConfig(
            name="tune",
            storage_path=str(plan.folder),
            callbacks=[watch],
            stop={"round": watch.rounds} if population else None,
            progress_reporter=reporter,
            verbose=1,
        ),
    )
    tuner.fit()
