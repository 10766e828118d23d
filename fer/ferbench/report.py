"""The leaderboard's files: `report.html`, `leaderboard.md` and `metrics.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fer.data.stream.prefetch import read_verified
from fer.data.vqa.questions import ImageRoot
from fer.errors import BadRow
from fer.evaluation import plots
from fer.evaluation.report import Headline, Plot, Report, Thumbnail, render_html
from fer.ferbench.collect import ModelResults
from fer.ferbench.compare import Comparison
from fer.ferbench.evaluate import CLEAR, ModelMetrics
from fer.ferbench.options import FerbenchReportConfig
from fer.ferbench.predictions import PROTOCOLS, predicted_labels
from fer.ferbench.tables import (
    classes_table,
    comparison_table,
    differences_table,
    leaderboard,
    metrics_table,
    responses_table,
    to_markdown,
)
from fer.ferbench.training_images import describe_training_images
from fer.training.run import versions

MAX_RESPONSE_LENGTH = 1500
MAX_HEADLINES = 8


def write_report(
    results: Sequence[ModelResults],
    metrics: Sequence[ModelMetrics],
    comparisons: Sequence[Comparison],
    config: FerbenchReportConfig,
) -> Path:
    """Write all files into ``config.out``; return the path of the page."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    tables = [
        *(leaderboard(metrics, protocol) for protocol in reversed(PROTOCOLS)),
        *(metrics_table(metrics, protocol) for protocol in reversed(PROTOCOLS)),
        classes_table(metrics),
        responses_table(metrics),
        comparison_table(comparisons),
        differences_table(metrics),
    ]
    tables = [table for table in tables if table.rows]
    report = Report(
        title=f"FERBench: {len(metrics)} model{'s' * (len(metrics) > 1)}",
        summary=[*describe_training_images(results), *_summary(metrics)],
        headlines=_headlines(metrics),
        tables=tables,
        plots=_plots(metrics),
        thumbnails=_samples(results, config) if config.thumbnails else [],
        thumbnails_title="A sample of responses, correct and wrong",
        sections={"Versions": versions()},
    )
    (out / "report.html").write_text(render_html(report), encoding="utf-8")
    text = "# FERBench\n\n" + "\n".join(to_markdown(table) for table in tables)
    (out / "leaderboard.md").write_text(text, encoding="utf-8")
    (out / "metrics.json").write_text(to_json(metrics, comparisons), encoding="utf-8")
    return out / "report.html"


def to_json(metrics: Sequence[ModelMetrics], comparisons: Sequence[Comparison]) -> str:
    """All metrics as JSON."""
    content = {
        "models": [model.model_dump() for model in metrics],
        "comparisons": [pair.model_dump() for pair in comparisons],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _summary(metrics: Sequence[ModelMetrics]) -> list[str]:
    counts = {(subset.name, subset.title): subset.questions for model in metrics for subset in model.subsets}
    subsets = [f"{title} ({count:,} questions)" for (_, title), count in counts.items()]
    sentences = [f"Evaluated on {', '.join(subsets)}."]
    names = {name for name, _ in counts}
    if "ferplus" in names and CLEAR not in names:
        sentences.append(
            "FERPlus's published questions include 421 images on whose expression annotators had no majority; "
            "--ferplus-votes fer2013new.csv adds metrics without them."
        )
    sentences.append("There are two protocols, strict and unifer; the tables say how each parses a response.")
    return sentences


def _headlines(metrics: Sequence[ModelMetrics]) -> list[Headline]:
    """Each model's overall strict accuracy."""
    headlines = []
    for model in metrics[:MAX_HEADLINES]:
        subset = model.overall
        description = f"accuracy, strict, {subset.title}"
        headlines.append(Headline(model.model, subset.strict.accuracy, description=description))
    return headlines


def _plots(metrics: Sequence[ModelMetrics]) -> list[Plot]:
    titles = {subset.name: subset.title for model in metrics for subset in model.subsets}
    names = [model.model for model in metrics]

    def accuracy(model: ModelMetrics, name: str) -> float:
        subset = model.subset(name)
        return subset.strict.accuracy.value if subset else np.nan

    accuracies = [[accuracy(model, name) for name in titles] for model in metrics]
    heatmap = plots.heatmap(names, list(titles.values()), accuracies)
    found = [Plot("Models and data sets", plots.to_png(heatmap), "Accuracy, strict.")]
    recalls = [_recalls(model) for model in metrics]
    if all(recall.keys() == recalls[0].keys() for recall in recalls):
        heatmap = plots.heatmap(names, list(recalls[0]), [list(recall.values()) for recall in recalls])
        found.append(Plot("Models and expressions", plots.to_png(heatmap), "Recall of each class, strict."))
    for model in metrics:
        subset = model.overall
        labels, rows = subset.strict.labels, subset.strict.confusion
        figure = plots.confusion_matrix([*labels, "unknown"], [*rows, [0] * (len(labels) + 1)])
        found.append(Plot(model.model, plots.to_png(figure), f"Confusion matrix, strict, {subset.title}."))
    return found


def _recalls(model: ModelMetrics) -> dict[str, float]:
    return {each.label: each.recall.value for each in model.overall.strict.classes if each.recall is not None}


def _samples(results: Sequence[ModelResults], config: FerbenchReportConfig) -> list[Thumbnail]:
    """``--samples`` correct and as many wrong responses of each model, chosen by ``--seed``."""
    thumbnails = []
    roots: dict[str, ImageRoot] = {}
    for model in results:
        location = config.image_root or model.record.get("image_root")
        if location is None:
            continue
        images = roots.setdefault(location, ImageRoot(location))
        remaining = {True: config.samples, False: config.samples}
        for path, label, predicted, response in _shuffled_responses(model, config.seed):
            correct = label == predicted
            image = read_verified(partial(images.read, path)) if remaining[correct] else None
            if image is None or isinstance(image, BadRow):
                continue
            remaining[correct] -= 1
            facts = {"model": model.name, "true": label, "predicted": predicted, "path": path}
            thumbnails.append(Thumbnail(image, facts, response[-MAX_RESPONSE_LENGTH:]))
            if not any(remaining.values()):
                break
    return thumbnails


def _shuffled_responses(model: ModelResults, seed: int) -> list[tuple[str, str, str, str]]:
    """(path, label, prediction, response) of every result without an error, in an order that depends on the seed."""
    rows = []
    for file in model.files:
        for result, predicted in zip(file.results, predicted_labels(file, "strict") or [], strict=True):
            if predicted is not None:
                rows.append((result.path, result.label, predicted, "\n".join(result.responses)))
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed}/{row[0]}".encode()).digest())
