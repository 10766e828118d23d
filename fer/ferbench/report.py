"""The leaderboard's files: `report.html`, `leaderboard.md` and `scores.json`."""

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
from fer.ferbench.evaluate import ModelScores
from fer.ferbench.options import ReportConfig
from fer.ferbench.predictions import PROTOCOLS, predictions
from fer.ferbench.tables import (
    answers_table,
    classes_table,
    comparison_table,
    differences_table,
    leaderboard,
    markdown,
    scores_table,
)
from fer.training.run import versions

LONGEST_SHOWN = 1500
MOST_HEADLINES = 8


def write_page(
    models: Sequence[ModelResults],
    scores: Sequence[ModelScores],
    comparisons: Sequence[Comparison],
    config: ReportConfig,
) -> Path:
    """Write all files into ``config.out``; return the page's path."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    boards = [leaderboard(scores, protocol) for protocol in reversed(PROTOCOLS)]
    others = [scores_table(scores, protocol) for protocol in reversed(PROTOCOLS)]
    tables = [*boards, *others, classes_table(scores), answers_table(scores)]
    tables += [comparison_table(comparisons), differences_table(scores)]
    tables = [table for table in tables if table.rows]
    report = Report(
        title=f"FERBench: {len(scores)} model{'s' * (len(scores) > 1)}",
        summary=_sentences(scores),
        headlines=_headlines(scores),
        tables=tables,
        plots=_plots(scores),
        thumbnails=_samples(models, config) if config.thumbnails else [],
        thumbnails_title="A sample of answers, right and wrong",
        sections={"Versions": versions()},
    )
    (out / "report.html").write_text(render_html(report), encoding="utf-8")
    text = "# FERBench\n\n" + "\n".join(markdown(table) for table in tables)
    (out / "leaderboard.md").write_text(text, encoding="utf-8")
    (out / "scores.json").write_text(as_json(scores, comparisons), encoding="utf-8")
    return out / "report.html"


def as_json(scores: Sequence[ModelScores], comparisons: Sequence[Comparison]) -> str:
    """All figures as JSON."""
    content = {
        "models": [model.model_dump() for model in scores],
        "comparisons": [pair.model_dump() for pair in comparisons],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _sentences(scores: Sequence[ModelScores]) -> list[str]:
    asked = {(part.name, part.title): part.questions for model in scores for part in model.parts}
    parts = [f"{title} ({count:,} questions)" for (_, title), count in asked.items()]
    said = [f"Judged on {', '.join(parts)}."]
    if any(name == "ferplus" for name, _ in asked) and not any(name == "ferplus-clear" for name, _ in asked):
        said.append(
            "FERPlus's published questions include 421 images on whose expression annotators had no majority; "
            "--ferplus-votes fer2013new.csv gives figures without them, too."
        )
    said.append("Scores are given in two protocols, strict and unifer; the tables say how they read an answer.")
    return said


def _headlines(scores: Sequence[ModelScores]) -> list[Headline]:
    """Each model's strict accuracy on the most that it was asked."""
    found = []
    for model in scores[:MOST_HEADLINES]:
        part = model.whole
        found.append(Headline(model.model, part.strict.accuracy, description=f"accuracy, strict, {part.title}"))
    return found


def _plots(scores: Sequence[ModelScores]) -> list[Plot]:
    titles = {part.name: part.title for model in scores for part in model.parts}

    def value(model: ModelScores, name: str) -> float:
        part = model.part(name)
        return part.strict.accuracy.value if part else np.nan

    table = [[value(model, name) for name in titles] for model in scores]
    heat = plots.heatmap([model.model for model in scores], list(titles.values()), table)
    found = [Plot("Models and data sets", plots.to_png(heat), "Accuracy, strict.")]
    for model in scores:
        part = model.whole
        labels, rows = part.strict.labels, part.strict.confusion
        figure = plots.confusion_matrix([*labels, "unknown"], [*rows, [0] * (len(labels) + 1)])
        found.append(Plot(model.model, plots.to_png(figure), f"Confusion matrix, strict, {part.title}."))
    recalls = [_recalls(model) for model in scores]
    if all(recall.keys() == recalls[0].keys() for recall in recalls):
        heat = plots.heatmap(
            [model.model for model in scores], list(recalls[0]), [list(recall.values()) for recall in recalls]
        )
        found.insert(1, Plot("Models and expressions", plots.to_png(heat), "Recall of each class, strict."))
    return found


def _recalls(model: ModelScores) -> dict[str, float]:
    part = model.whole
    return {each.label: each.recall.value for each in part.strict.classes if each.recall is not None}


def _samples(models: Sequence[ModelResults], config: ReportConfig) -> list[Thumbnail]:
    """Of each model, as many right answers as wrong ones, drawn by ``--seed``."""
    shown = []
    roots: dict[str, ImageRoot] = {}
    for model in models:
        location = config.image_root or model.record.get("image_root")
        if location is None:
            continue
        images = roots.setdefault(location, ImageRoot(location))
        left = {True: config.samples, False: config.samples}
        for path, label, predicted, response in _drawn(model, config.seed):
            right = label == predicted
            image = read_verified(partial(images.read, path)) if left[right] else None
            if image is None or isinstance(image, BadRow):
                continue
            left[right] -= 1
            facts = {"model": model.name, "true": label, "answered": predicted, "path": path}
            shown.append(Thumbnail(image, facts, response[-LONGEST_SHOWN:]))
            if not any(left.values()):
                break
    return shown


def _drawn(model: ModelResults, seed: int) -> list[tuple[str, str, str, str]]:
    """Path, label, prediction and response of every answered question, in an order that the seed shuffles."""
    rows = []
    for file in model.files:
        for result, predicted in zip(file.results, predictions(file, "strict") or [], strict=True):
            if predicted is not None:
                rows.append((result.path, result.label, predicted, "\n".join(result.responses)))
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed}/{row[0]}".encode()).digest())
