"""The results of a sweep: `report.html`, `best.yaml`, and a summary for the terminal."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import optuna
import yaml

from fer.evaluation.plots import to_png
from fer.evaluation.report import Plot, Report, Table, render_html
from fer.storage import absolute, fetch_folder, local_file, open_path
from fer.tracking import Run
from fer.training.run import RunFolder
from fer.tuning import plots
from fer.tuning.checkpoints import TrialCheckpoints
from fer.tuning.command_line import command_line
from fer.tuning.search import make_study
from fer.tuning.sweep import Sweep
from fer.tuning.trial_record import TrialRecord, ranked, trial_folder

PAGE = "report.html"
BEST_OPTIONS = "best.yaml"
MAX_ROWS = 15
"""Trials in the report's table."""

LIMITATIONS = (
    "The best of many trials looks better than it is, since it was selected on the same validation rows. Evaluate the "
    "resulting model on rows that no trial has seen (`fer evaluate`), and train it with other seeds before relying on "
    "a small difference.",
    "The importance of a hyperparameter is the share of the variance between trials that a random forest attributes "
    "to it (functional ANOVA); with few trials it is only a hint.",
)


def write_report(sweep: Sweep, run: RunFolder, records: Sequence[TrialRecord], parent: Run) -> str:
    """Write and log the report and the best trial's options; return the summary."""
    parent.log_metrics({"trials": float(len(records))}, step=0)
    best = next(iter(ranked(list(records))), None)
    if best is None:
        errors = "; ".join(f"{record.name}: {record.error}" for record in records if record.error)
        return f"No trial completed an epoch. {errors}"
    config = sweep.job_config(best.point)
    command = command_line(sweep.trainable.job, config, f"{run.name}-best")
    run.write(BEST_OPTIONS, yaml.safe_dump(json.loads(config.model_dump_json(exclude_unset=True)), sort_keys=False))
    sentences = list(summarize(sweep, records, best))
    tables = [best_trial_table(sweep, records, best), trials_table(sweep, records), failed_trials_table(records)]
    report = Report(
        title=f"Sweep {run.name}",
        summary=[*sentences, f"To train the best trial again: {command}"],
        headlines=[],
        tables=[table for table in tables if table.rows],
        plots=list(make_plots(sweep, records)),
        sections={
            "Time": time_breakdown(run, records),
            "Sweep": {name: value for name, value in sweep.config.model_dump().items() if value is not None},
            "Options of every trial": {**sweep.base, **sweep.fixed},
            "Versions": {**run.record["versions"], "commit": run.record["commit"] or "not from a repository"},
        },
        limitations=LIMITATIONS,
    )
    run.write(PAGE, render_html(report))
    assert best.score is not None, "ranked trials have a score"
    parent.log_metrics({"best_score": best.score}, step=0)
    parent.set_tags({"best_trial": best.name})
    log_best_trial(run, best, parent)
    times = [f"{name}: {value}" for name, value in time_breakdown(run, records).items()]
    return "\n".join([*sentences, *times, command])


def log_best_trial(run: RunFolder, best: TrialRecord, parent: Run) -> None:
    """Log the best checkpoint to its trial's MLflow run, once, and the report to the sweep's."""
    checkpoint = TrialCheckpoints(trial_folder(open_path(run.root), best.number)).best
    logged = run.record.get("logged", [])
    if checkpoint is not None and str(checkpoint) not in logged:
        kept = absolute(str(checkpoint))
        replace(parent, run_id=best.run_id).log_artifacts(fetch_folder(kept), checkpoint.name, kept=kept)
        run.update(logged=[*logged, str(checkpoint)])
    with local_file(f"{run.root}/{PAGE}") as page:
        parent.log_artifacts(page)


def summarize(sweep: Sweep, records: Sequence[TrialRecord], best: TrialRecord) -> Iterator[str]:
    """Number of trials by outcome, the best trial, and the baseline."""
    count = {state: sum(record.state == state for record in records) for state in ("finished", "stopped", "failed")}
    unfinished = len(records) - sum(count.values())
    yield (
        f"{len(records)} trials: {count['finished']} finished, {count['stopped']} stopped early, "
        f"{count['failed']} failed" + (f", {unfinished} unfinished" if unfinished else "") + "."
    )
    best_epoch = best.best["trial_epoch"] if best.best else 0
    yield f"Best: {best.name} with {best.score:.4f} ({sweep.space.metric}) at epoch {best_epoch}."
    default = default_trial(sweep, records)
    if default is not None and default.score is not None and default is not best:
        yield f"Default options: {default.score:.4f} ({default.name}, {default.epochs} epochs)."


def default_trial(sweep: Sweep, records: Sequence[TrialRecord]) -> TrialRecord | None:
    return next((record for record in records if record.point == sweep.space.default), None)


def best_trial_table(sweep: Sweep, records: Sequence[TrialRecord], best: TrialRecord) -> Table:
    """The best trial's hyperparameters beside the defaults."""
    default = default_trial(sweep, records)
    defaults = sweep.space.default
    rows = [[name, format_value(defaults[name]), format_value(best.point[name])] for name in sweep.space.params]
    rows.append(["best score", format_value(default.score if default else None), format_value(best.score)])
    return Table("Best trial", ["hyperparameter", "default", best.name], rows)


def trials_table(sweep: Sweep, records: Sequence[TrialRecord]) -> Table:
    columns = ["trial", "score", "epochs", "state", *(name.replace("_", " ") for name in sweep.space.params)]
    cost = sweep.config.second_objective
    if cost:
        columns.insert(2, cost)
    rows = []
    for record in ranked(list(records))[:MAX_ROWS]:
        row = [record.name, format_value(record.score), str(record.epochs), record.state]
        if cost and record.best:
            row.insert(2, format_value(record.best[cost]))
        rows.append([*row, *(format_value(record.point[name]) for name in sweep.space.params)])
    caption = f"The best {MAX_ROWS} of {len(records)}." if len(records) > MAX_ROWS else ""
    return Table("Trials", columns, rows, caption)


def failed_trials_table(records: Sequence[TrialRecord]) -> Table:
    rows = [[record.name, str(record.epochs), record.error] for record in records if record.state == "failed"]
    return Table("Failed trials", ["trial", "epochs", "error"], rows)


def make_plots(sweep: Sweep, records: Sequence[TrialRecord]) -> Iterator[Plot]:
    space, cost = sweep.space, sweep.config.second_objective
    usable = [record for record in records if record.best and record.state != "failed"]
    yield Plot("Learning curves", to_png(plots.learning_curves(usable)), "Each trial's score after each epoch.")
    yield Plot("Optimization history", to_png(plots.optimization_history(usable)), "Each trial's best score.")
    study = make_study(space.params, records, cost)
    importances = param_importances(study)
    if importances:
        yield Plot("Hyperparameter importance", to_png(plots.importances(importances)), "For the score.")
    caption = "Each line is a trial; darker is better, the best is orange."
    yield Plot("Parallel coordinates", to_png(plots.parallel_coordinates(usable, space.params)), caption)
    if cost and study.best_trials:
        front = [trial.user_attrs["number"] for trial in study.best_trials]
        yield Plot(
            f"Score and {cost}",
            to_png(plots.pareto_front(usable, cost, front)),
            "Pareto front in orange: no other trial is better in both.",
        )


def param_importances(study: optuna.Study) -> dict[str, float] | None:
    """Each hyperparameter's share of the variance of the score; None with fewer than 4 trials, or equal scores."""
    complete = [trial for trial in study.trials if trial.values]
    if len(complete) < 4 or len({trial.values[0] for trial in complete}) < 2:
        return None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.importance.get_param_importances(study, evaluator=evaluator, target=lambda trial: trial.values[0])


def time_breakdown(run: RunFolder, records: Sequence[TrialRecord]) -> dict[str, str]:
    """Wall time of the sweep, and how much of it was training."""
    sessions, max_concurrent = run.record["sessions"], run.record["max_concurrent"]
    wall = sum(session["ended"] - session["started"] for session in sessions)
    spans = sorted(training_spans(records))
    trained = sum(end - start for start, end in spans)
    facts = {
        "wall time": f"{wall / 60:.1f} min in {len(sessions)} session(s), {max_concurrent} trial(s) at a time",
        "training and validation": f"{trained / 60:.1f} min, {trained / max(wall * max_concurrent, 1e-9):.0%} of it",
    }
    gaps = [after[0] - before[1] for before, after in pairwise(spans)]
    if gaps and max_concurrent == 1 and len(sessions) == 1:
        facts["between two trials"] = f"median {statistics.median(gaps):.1f} s, at most {max(gaps):.1f} s"
    return facts


def training_spans(records: Sequence[TrialRecord]) -> Iterator[tuple[float, float]]:
    """When each trial's epochs started and ended, in Unix time. Validation of the first epoch is left out."""
    for record in records:
        if record.history and record.attempts == 1:
            yield record.history[0]["time"] - record.history[0]["seconds"], record.history[-1]["time"]


def format_value(value: Any) -> str:
    """A value for a table; floats with four significant digits."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
