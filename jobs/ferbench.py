"""`fer ferbench`: let models answer questions about faces, and judge their answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fer.errors import UserError
from fer.ferbench.options import JudgedModel, ReportConfig, RunConfig, ScoreConfig
from fer.options import Options

if TYPE_CHECKING:
    from fer.ferbench.collect import ModelResults
    from fer.ferbench.compare import Comparison
    from fer.ferbench.evaluate import ModelScores


class Subcommand(NamedTuple):
    """A command below `fer ferbench`."""

    summary: str
    Config: type[Options]
    main: Callable[[Any], None]


def run(config: RunConfig) -> None:
    """Every model answers every question that it has not answered yet."""
    from tqdm import tqdm

    from fer.ferbench.models import models_of
    from fer.ferbench.run import answer_questions, check_images, read_questions_files

    models = models_of(config)
    files = read_questions_files(config.questions)
    check_images(files, config)
    total = sum(len(file.asked) for file in files)
    for model in models:
        _connect(model)
        with tqdm(total=total, desc=model.name, unit="question", disable=None) as bar:
            for done in answer_questions(model, files, config):
                bar.update(done)
        print(f"{model.name}: {_outcome(config, model)}")
    print(f"Next:    fer ferbench report {config.out}")


def _connect(model: JudgedModel) -> None:
    """A cluster, for whoever computes on one; an endpoint is asked from here."""
    from cluster.local import connect

    if not model.endpoint:
        connect((os.cpu_count() or 1) + 1)  # one CPU to read with, beside those that compute


def _outcome(config: RunConfig, model: JudgedModel) -> str:
    from fer.ferbench.collect import collect

    folder = Path(config.out) / str(model.name)
    results = [result for file in collect([str(folder)])[0].files for result in file.results]
    errors = [result for result in results if result.error]
    faults = f", of which {len(errors):,} have errors ({errors[0].path}: {errors[0].error})" if errors else ""
    return f"{len(results):,} questions answered{faults}; results in {folder}"


def score(config: ScoreConfig) -> None:
    """Print the figures of both protocols, or of one, and why they differ."""
    import rich

    from fer.ferbench.predictions import PROTOCOLS
    from fer.ferbench.report import as_json
    from fer.ferbench.tables import answers_table, comparison_table, console, differences_table, scores_table

    _, scores, comparisons = _judged(config)
    if config.protocol == "unifer" and not any(part.unifer for model in scores for part in model.parts):
        raise UserError("--protocol unifer: UniFER has rules for the labels of its four data sets only; use strict")
    protocols = PROTOCOLS if config.protocol == "both" else (config.protocol,)
    tables = [scores_table(scores, protocol) for protocol in protocols]
    tables += [answers_table(scores), comparison_table(comparisons)]
    tables += [differences_table(scores)] if config.protocol == "both" else []
    for table in tables:
        if table.rows:
            rich.print(console(table))
    if config.json:
        Path(config.json).write_text(as_json(scores, comparisons), encoding="utf-8")
        print(f"All figures: {config.json}")


def report(config: ReportConfig) -> None:
    """Write the page, the Markdown table and all figures."""
    from fer.ferbench.report import write_page

    models, scores, comparisons = _judged(config)
    page = write_page(models, scores, comparisons, config)
    print(f"Report:  {page}")
    print(f"A Markdown table and all figures are beside it, in {page.parent}")


def _judged(config: ScoreConfig | ReportConfig) -> tuple[list[ModelResults], list[ModelScores], list[Comparison]]:
    from fer.ferbench.collect import clear_majority, collect
    from fer.ferbench.compare import compare
    from fer.ferbench.evaluate import judge

    clear = clear_majority(config.ferplus_votes) if config.ferplus_votes else None
    models = collect(config.results)
    return models, [judge(model, clear, config.seed) for model in models], compare(models, config.seed)


SUBCOMMANDS = {
    "run": Subcommand("Let models answer questions; a stopped run is continued by the same command", RunConfig, run),
    "score": Subcommand("Score answers in UniFER's protocol and in the strict one, side by side", ScoreConfig, score),
    "report": Subcommand("One HTML page and a Markdown table over models and data sets", ReportConfig, report),
}


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("ferbench"))
