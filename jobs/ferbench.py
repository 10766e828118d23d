"""`fer ferbench`: collect models' responses to questions about faces, and evaluate them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fer.cpus import cpu_count
from fer.errors import UserError
from fer.ferbench.options import BenchmarkModel, FerbenchReportConfig, FerbenchRunConfig, FerbenchScoreConfig
from jobs.commands import Subcommand

if TYPE_CHECKING:
    from fer.ferbench.collect import ModelResults
    from fer.ferbench.compare import Comparison
    from fer.ferbench.evaluate import ModelMetrics


def run(config: FerbenchRunConfig) -> None:
    """Run every model on all questions that it has not responded to yet."""
    from tqdm import tqdm

    from cluster.local import connect
    from fer.ferbench.models import describe_generation, list_models, resolve_kind
    from fer.ferbench.run import check_images, read_questions_files, run_model

    models = list_models(config)
    files = read_questions_files(config.questions)
    check_images(files, config)
    total = sum(len(file.items) for file in files)
    resolved = [resolve_kind(model, config) for model in models]  # a mistake is reported before anything starts
    for model, (kind, path) in zip(models, resolved, strict=True):
        if kind != "endpoint":
            # One CPU for reading, beside those for inference; a Ray of our own gives inference all of the machine's.
            connect(cpus=max(config.workers, 1) + 1, local_cpus=cpu_count() + 1)
        if kind == "vllm":
            print(f"{model.name}: {describe_generation(path, config)}", flush=True)
        with tqdm(total=total, desc=model.name, unit="question", disable=None) as bar:
            for completed in run_model(model, kind, path, files, config):
                bar.update(completed)
        print(f"{model.name}: {_summary(config, model)}")
    print(f"Next:    fer ferbench report {config.out}")


def _summary(config: FerbenchRunConfig, model: BenchmarkModel) -> str:
    from fer.ferbench.collect import collect_results

    folder = f"{config.out.rstrip('/')}/{model.name}"
    results = [result for file in collect_results([folder])[0].files for result in file.results]
    errors = [result for result in results if result.error is not None]
    text = f"{len(results):,} questions"
    if errors:
        text += f", {len(errors):,} with errors (the first: {errors[0].path}: {errors[0].error})"
    return f"{text}; results in {folder}"


def score(config: FerbenchScoreConfig) -> None:
    """Print the metrics of one or both protocols, and why they differ."""
    import rich

    from fer.ferbench.predictions import PROTOCOLS
    from fer.ferbench.report import to_json
    from fer.ferbench.tables import comparison_table, differences_table, metrics_table, responses_table, to_rich
    from fer.ferbench.training_images import describe_training_images

    results, metrics, comparisons = _evaluate(config)
    for sentence in describe_training_images(results):
        print(sentence)
    if config.protocol == "unifer" and not any(subset.unifer for model in metrics for subset in model.subsets):
        raise UserError("--protocol unifer: UniFER has rules for the labels of its four data sets only; use strict")
    protocols = PROTOCOLS if config.protocol == "both" else (config.protocol,)
    tables = [metrics_table(metrics, protocol) for protocol in protocols]
    tables += [responses_table(metrics), comparison_table(comparisons)]
    tables += [differences_table(metrics)] if config.protocol == "both" else []
    for table in tables:
        if table.rows:
            rich.print(to_rich(table))
    if config.json:
        Path(config.json).parent.mkdir(parents=True, exist_ok=True)
        Path(config.json).write_text(to_json(metrics, comparisons), encoding="utf-8")
        print(f"All metrics: {config.json}")


def report(config: FerbenchReportConfig) -> None:
    """Write the HTML page, the Markdown table and all metrics."""
    from fer.ferbench.report import write_report

    page = write_report(*_evaluate(config), config)
    print(f"Report:  {page}")
    print(f"A Markdown table and all metrics are beside it, in {page.parent}")


def _evaluate(
    config: FerbenchScoreConfig | FerbenchReportConfig,
) -> tuple[list[ModelResults], list[ModelMetrics], list[Comparison]]:
    from fer.ferbench.collect import clear_majority_images, collect_results
    from fer.ferbench.compare import compare_models
    from fer.ferbench.evaluate import evaluate_model

    clear_majority = clear_majority_images(config.ferplus_votes) if config.ferplus_votes else None
    results = collect_results(config.results)
    metrics = [evaluate_model(model, clear_majority, config.seed) for model in results]
    return results, metrics, compare_models(results, config.seed)


SUBCOMMANDS = {
    "run": Subcommand(
        "Collect models' responses to questions; the same command resumes an interrupted run", FerbenchRunConfig, run
    ),
    "score": Subcommand(
        "Evaluate responses in UniFER's protocol and in the strict one, side by side", FerbenchScoreConfig, score
    ),
    "report": Subcommand("One HTML page and a Markdown table over models and data sets", FerbenchReportConfig, report),
}


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("ferbench"))
