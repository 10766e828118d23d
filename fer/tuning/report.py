"""What a campaign found: `report.html`, `winner.yaml` and a sentence for the person who waited."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import yaml

from fer.evaluation.plots import to_png
from fer.evaluation.report import Plot, Report, Table, render_html
from fer.tracking import Run
from fer.training.run import RunFolder
from fer.tuning import plots
from fer.tuning.checkpoints import Keeper
from fer.tuning.command import command
from fer.tuning.record import Record, ranked, trial_folder
from fer.tuning.search import make_study
from fer.tuning.sweep import Campaign

PAGE = "report.html"
WINNER = "winner.yaml"
SHOWN = 15
"""Trials in the report's table."""

LIMITATIONS = (
    "The best of many trials looks better than it is: it was chosen by these very validation rows. Judge the model "
    "that comes of it on rows that no trial has seen (`fer evaluate`), and train it again with other seeds before you "
    "trust a small difference.",
    "A dimension's importance is the share of the differences between trials that a random forest attributes to it "
    "(functional ANOVA); with few trials it is a hint, no more.",
)


def write_report(campaign: Campaign, run: RunFolder, records: Sequence[Record], parent: Run) -> str:
    """Write and log the report and the winner's options; the summary."""
    parent.log_metrics({"trials": float(len(records))}, step=0)
    best = next(iter(ranked(list(records))), None)
    if best is None:
        reasons = "; ".join(f"{record.name}: {record.reason}" for record in records if record.reason)
        return f"No trial came to the end of a round. {reasons}"
    winner = campaign.job_config(best.point)
    reproduce = command(campaign.training.job, winner, f"{run.name}-winner")
    run.write(WINNER, yaml.safe_dump(json.loads(winner.model_dump_json(exclude_unset=True)), sort_keys=False))
    sentences = list(summarize(campaign, records, best))
    report = Report(
        title=f"Campaign {run.name}",
        summary=[*sentences, f"The winner again: {reproduce}"],
        headlines=[],
        tables=[differences(campaign, records, best), trials_table(campaign, records), failures(records)],
        plots=list(figures(campaign, records)),
        sections={
            "Time": times(run, records),
            "Campaign": {name: value for name, value in campaign.config.model_dump().items() if value is not None},
            "Options of every trial": {**campaign.base, **campaign.fixed},
            "Versions": {**run.record["versions"], "commit": run.record["commit"] or "not from a repository"},
        },
        limitations=LIMITATIONS,
    )
    report.tables = [table for table in report.tables if table.rows]
    run.write(PAGE, render_html(report))
    assert best.score is not None, "it is ranked"
    parent.log_metrics({"best_score": best.score}, step=0)
    parent.set_tags({"best_trial": best.name})
    log_best(campaign, run, best, parent)
    return "\n".join([*sentences, *(f"{name}: {value}" for name, value in times(run, records).items()), reproduce])


def log_best(campaign: Campaign, run: RunFolder, best: Record, parent: Run) -> None:
    """The best checkpoint goes to the trial's MLflow run, once; the report to the campaign's."""
    checkpoint = Keeper(trial_folder(Path(run.root), best.number)).best
    logged = run.record.get("logged", [])
    if checkpoint is not None and str(checkpoint) not in logged:
        Run(parent.uri, best.run_id).log_artifacts(checkpoint, checkpoint.name)
        run.update(logged=[*logged, str(checkpoint)])
    parent.log_artifacts(Path(run.root) / PAGE)


def summarize(campaign: Campaign, records: Sequence[Record], best: Record) -> Iterator[str]:
    """What was tried and what came of it."""
    count = {state: sum(record.state == state for record in records) for state in ("finished", "stopped", "failed")}
    unfinished = len(records) - sum(count.values())
    yield (
        f"{len(records)} trials: {count['finished']} ran to their end, {count['stopped']} were stopped early, "
        f"{count['failed']} failed" + (f", {unfinished} unfinished" if unfinished else "") + "."
    )
    yield (
        f"Best: {best.name} with {best.score:.4f} ({campaign.space.optimises}), "
        f"{best.best['round'] if best.best else 0} rounds."
    )
    default = default_trial(campaign, records)
    if default is not None and default.score is not None and default is not best:
        yield f"The default options have {default.score:.4f} ({default.name}, {default.rounds} rounds)."


def default_trial(campaign: Campaign, records: Sequence[Record]) -> Record | None:
    return next((record for record in records if record.point == campaign.space.default), None)


def differences(campaign: Campaign, records: Sequence[Record], best: Record) -> Table:
    """The winner's options beside the default's."""
    default = default_trial(campaign, records)
    rows = [[name, text(campaign.space.default[name]), text(best.point[name])] for name in campaign.space.vary]
    rows.append(["best score", text(default.score if default else None), text(best.score)])
    return Table("The winner", ["dimension", "default", best.name], rows)


def trials_table(campaign: Campaign, records: Sequence[Record]) -> Table:
    columns = ["trial", "score", "rounds", "end", *(name.replace("_", " ") for name in campaign.space.vary)]
    against = campaign.config.against
    if against:
        columns.insert(2, against)
    rows = []
    for record in ranked(list(records))[:SHOWN]:
        row = [record.name, text(record.score), str(record.rounds), record.state]
        if against and record.best:
            row.insert(2, text(record.best[against]))
        rows.append([*row, *(text(record.point[name]) for name in campaign.space.vary)])
    caption = f"The best {SHOWN} of {len(records)}." if len(records) > SHOWN else ""
    return Table("Trials", columns, rows, caption)


def failures(records: Sequence[Record]) -> Table:
    rows = [[record.name, str(record.rounds), record.reason] for record in records if record.state == "failed"]
    return Table("Failed trials", ["trial", "rounds", "reason"], rows)


def figures(campaign: Campaign, records: Sequence[Record]) -> Iterator[Plot]:
    space, against = campaign.space, campaign.config.against
    usable = [record for record in records if record.best and record.state != "failed"]
    yield Plot("Learning curves", to_png(plots.learning_curves(usable)), "The score after each round of every trial.")
    yield Plot("Optimisation history", to_png(plots.history(usable)), "Each trial's best score.")
    study = make_study(space.vary, records, against)
    shares = importance(study)
    if shares:
        yield Plot("Importance", to_png(plots.importances(shares)), "Of each dimension, for the score.")
    caption = "A line is a trial: the darker the better, the best in orange."
    yield Plot("Parallel coordinates", to_png(plots.parallel(usable, space.vary)), caption)
    if against and study.best_trials:
        front = [trial.user_attrs["number"] for trial in study.best_trials]
        yield Plot(
            f"Score against {against}",
            to_png(plots.trade_off(usable, against, front)),
            "In orange the trials that no other one beats in both.",
        )


def importance(study: optuna.Study) -> dict[str, float] | None:
    """Each dimension's share of the differences between scores; None where too few trials tell."""
    done = [trial for trial in study.trials if trial.values]
    if len(done) < 4 or len({trial.values[0] for trial in done}) < 2:
        return None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.importance.get_param_importances(study, evaluator=evaluator, target=lambda trial: trial.values[0])


def times(run: RunFolder, records: Sequence[Record]) -> dict[str, str]:
    """Where the campaign's time went, from its own log."""
    wall = sum(session["ended"] - session["began"] for session in run.record["sessions"])
    at_a_time = run.record["at_a_time"]
    spans = sorted(spans_of(records))
    trained = sum(end - begin for begin, end in spans)
    facts = {
        "wall time": f"{wall / 60:.1f} min in {len(run.record['sessions'])} session(s), {at_a_time} trial(s) at a time",
        "training and validation": f"{trained / 60:.1f} min, {trained / max(wall * at_a_time, 1e-9):.0%} of it",
    }
    gaps = [after[0] - before[1] for before, after in pairwise(spans)]
    if gaps and at_a_time == 1 and len(run.record["sessions"]) == 1:
        facts["between two trials"] = f"median {statistics.median(gaps):.1f} s, at most {max(gaps):.1f} s"
    return facts


def spans_of(records: Sequence[Record]) -> Iterator[tuple[float, float]]:
    """When each trial's epochs began and ended. The validation of a trial's first epoch counts as time before it."""
    for record in records:
        if record.history and record.sessions == 1:
            yield record.history[0]["time"] - record.history[0]["seconds"], record.history[-1]["time"]


def text(value: Any) -> str:
    """A value of a table: numbers of three significant digits."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
