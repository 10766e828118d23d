"""Runs a sweep with Ray Tune: the trials that are left, after those of earlier sessions."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import optuna
import ray
import ray.tune
from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator
from ray.tune.logger import JsonLoggerCallback
from ray.tune.search.basic_variant import BasicVariantGenerator

from fer.errors import UserError
from fer.mlflow_client import check_database
from fer.storage import open_path, ray_storage
from fer.tracking import Run, start_run, tracking_uri
from fer.training.run import RunFolder, connected_hosts
from fer.tuning.callback import SweepCallback
from fer.tuning.options import TuneConfig
from fer.tuning.scheduler import make_scheduler
from fer.tuning.search import SweepSearch, make_sampler, make_study, sample_points
from fer.tuning.sweep import Sweep
from fer.tuning.trial import TrialTemplate, run_trial
from fer.tuning.trial_record import TrialRecord, read_records


def run_sweep(sweep: Sweep, warm_start: Sequence[TrialRecord]) -> tuple[RunFolder, list[TrialRecord], Run]:
    """Run the remaining trials; all records, and the sweep's MLflow run, which is left open.

    ``warm_start`` are trials of another sweep that the search algorithm learns from.
    """
    config, space = sweep.config, sweep.space
    job = sweep.job_config(space.default)
    max_concurrent = concurrent_trials(job, config)
    check_database(tracking_uri(config), connected_hosts())
    data = sweep.trainable.prepare_data(job)
    run = RunFolder(config, "tune", default_name=config.space.replace(":", "-"))
    if run.record.get("base", dict(sweep.base)) != dict(sweep.base):
        raise UserError(f"sweep {run.name!r} was started with another --base: choose another --name")
    if run.record.get("data_hash", data["hash"]) != data["hash"]:
        raise UserError(f"the data of sweep {run.name!r} has changed since it started: choose another --name")
    folder = open_path(run.root)
    parent = start_run(config, config.experiment, run.name, run.record.get("mlflow_run_id"), buffer=run.buffer)
    run.update(mlflow_run_id=parent.run_id, base=dict(sweep.base), data_hash=data["hash"])
    parent.log_params(config.model_dump())

    max_epochs = sweep.trainable.max_epochs(job)
    callback = SweepCallback(folder, run.name, config, parent, sweep.num_trials, max_epochs)
    callback.load(read_records(folder))
    ended = [record for record in callback.records.values() if record.state != "running"]
    remaining = sweep.num_trials - len(ended)
    sessions = run.record.get("sessions", [])
    spent = sum(session["ended"] - session["started"] for session in sessions)
    minutes = None if config.time_budget is None else config.time_budget - spent / 60
    if remaining <= 0 or (minutes is not None and minutes <= 0):
        print(f"sweep {run.name}: nothing left to run", flush=True)
        return run, list(callback.records.values()), parent

    callback.scheduler = make_scheduler(space, sweep.search, sweep.scheduler, sweep.trainable.max_progress(job), ended)
    searcher, param_space = _make_searcher(sweep, callback, ended, warm_start)
    template = sweep.trial_template(folder, data, parent)
    print(
        f"sweep {run.name}: {sweep.num_trials} trials of up to {max_epochs} epochs, {remaining} left; "
        f"search {sweep.search}, scheduler {sweep.scheduler}",
        flush=True,
    )
    started = time.time()

    def save_time() -> None:
        """At every report, so that the time of a killed session counts too."""
        run.update(sessions=[*sessions, {"started": started, "ended": time.time()}], max_concurrent=max_concurrent)

    callback.on_report = save_time
    save_time()
    tuner = _make_tuner(sweep, template, callback, searcher, param_space, max_concurrent, remaining, minutes)
    get_or_create_autoscaling_coordinator()  # while the first trial starts, whose data reader then waits for it
    tuner.fit()
    save_time()
    return run, list(callback.records.values()), parent


def concurrent_trials(job: Any, config: TuneConfig) -> int:
    """How many trials run at a time, with CPUs left to load data. Raises UserError if ``max_concurrent`` can't fit."""
    cpus, needed = ray.cluster_resources().get("CPU", 0), job.required_cpus
    fit = int(cpus // needed)
    reason = f"a trial needs {needed:g} CPUs ({job.workers} worker(s) and their data loading), the cluster has {cpus:g}"
    gpus = ray.cluster_resources().get("GPU", 0)
    if gpus and job.device != "cpu":
        per_trial = config.gpus_per_trial if job.workers == 1 else job.workers
        if gpus // per_trial < fit:
            fit, reason = int(gpus // per_trial), f"a trial needs {per_trial:g} GPUs, the cluster has {gpus:g}"
    elif job.device == "gpu":
        raise UserError("--set device=gpu: the cluster has no GPU")
    if fit < max(1, config.max_concurrent or 1):
        raise UserError(
            f"--max-concurrent {config.max_concurrent or 1} can't be scheduled: {reason}; "
            + (f"use --max-concurrent {fit}" if fit else "use fewer workers: --set workers=1")
        )
    trials = config.max_concurrent or fit
    print(f"{trials} trial(s) at a time: {reason}", flush=True)
    return trials


def _make_searcher(
    sweep: Sweep, callback: SweepCallback, ended: Sequence[TrialRecord], warm_start: Sequence[TrialRecord]
) -> tuple[Any, dict[str, Any]]:
    """The search algorithm and the ``param_space``, as Ray Tune takes them.

    It suggests interrupted trials first, then given points that have not been tried, then new ones.
    """
    config, space = sweep.config, sweep.space
    first = [record.point for record in callback.interrupted]
    known = [*(record.point for record in ended), *first]
    first += [point for point in sweep.points_to_evaluate if not any(point.items() <= each.items() for each in known)]
    if sweep.search == "pbt":
        remaining = sweep.num_trials - len(ended)
        points = sample_points(space.params, first, remaining, config.seed + len(callback.records))
        return BasicVariantGenerator(), {"trial": ray.tune.grid_search([callback.start_trial(each) for each in points])}
    storage = optuna.storages.InMemoryStorage()
    sampler = make_sampler(sweep.search, config.seed, len(callback.records))
    study = make_study(space.params, [*warm_start, *ended], config.second_objective, sampler, storage)
    for point in first:
        study.enqueue_trial(point)
    start, failed = callback.start_trial, callback.has_failed
    return SweepSearch(space.params, start, config.second_objective, sampler, storage, failed), {}


def _make_tuner(
    sweep: Sweep,
    template: TrialTemplate,
    callback: SweepCallback,
    searcher: Any,
    param_space: dict[str, Any],
    max_concurrent: int,
    remaining: int,
    minutes: float | None,
) -> ray.tune.Tuner:
    job = sweep.job_config(sweep.space.default)
    one_worker, population = job.workers == 1, sweep.search == "pbt"
    cpus = job.cpus_per_worker if one_worker else 0.01  # with several workers, Ray Train reserves their CPUs
    if population:
        # Here Tune limits concurrency by resources only: reserve so much that no more than max_concurrent trials fit.
        cpus = ray.cluster_resources()["CPU"] / (max_concurrent + 1) + 0.01
    resources = {"CPU": cpus}
    if one_worker and job.device != "cpu" and ray.cluster_resources().get("GPU"):
        resources["GPU"] = sweep.config.gpus_per_trial
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial that fails before its first epoch has no score
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the one for TensorBoard imports torch
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the table only; the newer output repeats the metrics of every trial
    reporter = ray.tune.CLIReporter(
        parameter_columns={f"trial/point/{name}": name for name in sweep.space.params},
        metric_columns={"trial_epoch": "epoch", "score": "score", "best_score": "best"},
        max_report_frequency=60,
        print_intermediate_tables=True,
    )
    return ray.tune.Tuner(
        ray.tune.with_resources(ray.tune.with_parameters(run_trial, template=template), resources),
        param_space=param_space,
        tune_config=ray.tune.TuneConfig(
            search_alg=searcher,
            scheduler=callback.scheduler,
            num_samples=1 if population else remaining,
            max_concurrent_trials=None if population else max_concurrent,
            time_budget_s=None if minutes is None else minutes * 60,
            reuse_actors=one_worker,
            trial_dirname_creator=_trial_name,
            trial_name_creator=_trial_name,
        ),
        run_config=ray.tune.RunConfig(
            name="tune",
            **ray_storage(str(template.folder)),
            callbacks=[callback, JsonLoggerCallback()],  # Tune reads its files at the end
            failure_config=ray.tune.FailureConfig(max_failures=job.max_failures),  # of processes and nodes
            stop={"trial_epoch": callback.max_epochs} if population else None,
            progress_reporter=reporter,
            verbose=1,
        ),
    )


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config['trial']['number']:03}"
