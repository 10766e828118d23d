"""The files that an evaluation of a classifier leaves: metrics.json, predictions.csv, plots and report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
from matplotlib.figure import Figure as Drawing

from fer.classifier.evaluate.evaluator import AFFECT, Evaluation
from fer.classifier.evaluate.summary import class_table, coverage_sentences, headlines
from fer.classifier.model import ModelSpec
from fer.data.manifest import ShardedDataset
from fer.evaluation import plots
from fer.evaluation.report import Plot, Report, Thumbnail, render_html
from fer.training.run import commit, versions

CAPTIONS = {
    "Confusion matrix": "Rows are true labels; colour and percentage are shares of the row.",
    "Classes": "Precision, recall and F1 with 95% intervals.",
    "Reliability": "How often the model is right at each confidence; a line above its bar is overconfidence.",
    "Training": "From the run that made the model.",
    "Valence and arousal": "Each dot is a row; on the dashed line, the estimate is the annotated value.",
}


@dataclass
class Subject:
    """What was judged, on what, and how."""

    model: str
    """The reference that was given."""
    folder: Path
    spec: ModelSpec
    data: str
    dataset: ShardedDataset
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options that change the figures, such as ``tta`` and the seed."""
    history: Sequence[Mapping[str, float]] = ()
    """Entries of the training run's `history.json`, if there is one."""


def write_results(evaluation: Evaluation, subject: Subject, out: Path, thumbnails: bool = True) -> Path:
    """Write all files into the folder ``out``; return the report's path."""
    out.mkdir(parents=True, exist_ok=True)
    sections = facts(subject)
    affect = {name: figures.model_dump() for name, figures in evaluation.affect.items()}
    metrics = {
        "coverage": evaluation.coverage.model_dump(),
        "expression": evaluation.expression.model_dump() if evaluation.expression else None,
        "affect": affect or None,
        **{heading.lower(): section for heading, section in sections.items()},
    }
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    pyarrow.csv.write_csv(evaluation.predictions, out / "predictions.csv")
    pictures = {title: plots.to_png(drawing) for title, drawing in drawings(evaluation, subject.history).items()}
    for title, picture in pictures.items():
        (out / f"{title.lower().replace(' ', '-')}.png").write_bytes(picture)
    classes = class_table(evaluation)
    report = Report(
        title=f"{subject.spec.options.backbone} on {Path(subject.data).name}, {evaluation.coverage.split}",
        summary=coverage_sentences(evaluation),
        headlines=headlines(evaluation),
        tables=[classes] if classes else [],
        plots=[Plot(title, picture, CAPTIONS[title]) for title, picture in pictures.items()],
        thumbnails=_thumbnails(evaluation) if thumbnails else [],
        thumbnails_title="Worst mistakes" if evaluation.expression else "Estimates furthest off",
        sections=sections,
    )
    (out / "report.html").write_text(render_html(report), encoding="utf-8")
    return out / "report.html"


def find_history(folder: Path, spec: ModelSpec, out_dir: str) -> list[dict[str, float]]:
    """`history.json` of the run that made a model: beside its folder or in it, or in the run's folder; else nothing."""
    for place in (folder, folder.parent, Path(out_dir) / str(spec.training.get("run", ""))):
        if (place / "history.json").is_file():
            return json.loads((place / "history.json").read_text())
    return []


def facts(subject: Subject) -> dict[str, dict[str, Any]]:
    """Model, data, settings and versions as names and values."""
    spec, manifest = subject.spec, subject.dataset.manifest
    options = spec.options
    trained = {f"training {name}": str(value) for name, value in spec.training.items()}
    return {
        "Model": {
            "model": subject.model,
            "folder": str(subject.folder),
            "backbone": options.backbone,
            "head": options.head,
            "input": f"{options.img_size}x{options.img_size}, {'grey' if options.in_chans == 1 else 'colour'}",
            "labels": ", ".join(spec.labels),
            **trained,
        },
        "Data": {
            "data": subject.data,
            "shards": subject.dataset.root,
            "labels": ", ".join(manifest.labels),
            "content hash": manifest.content_hash,
            "set aside when the shards were made": "; ".join(
                f"{rows:,}: {why}" for why, rows in manifest.rejected.items()
            )
            or "nothing",
        },
        "Settings": dict(subject.settings),
        "Versions": {**versions(), "commit": commit() or "not from a repository"},
    }


def drawings(evaluation: Evaluation, history: Sequence[Mapping[str, float]]) -> dict[str, Drawing]:
    """The plots that there is data for, by title."""
    found: dict[str, Drawing] = {}
    if (expression := evaluation.expression) is not None:
        found["Confusion matrix"] = plots.confusion_matrix(expression.labels, expression.confusion)
        found["Reliability"] = plots.reliability_diagram(expression.reliability)
        found["Classes"] = plots.class_bars(expression.classes)
    if evaluation.affect:
        true, estimated = (
            np.stack([evaluation.predictions[prefix + name].to_numpy() for name in AFFECT], axis=1)
            for prefix in ("", "estimated_")
        )
        found["Valence and arousal"] = plots.valence_arousal(true, estimated)
    if (curves := plots.training_curves(history)) is not None:
        found["Training"] = curves
    return found


def _thumbnails(evaluation: Evaluation) -> list[Thumbnail]:
    kind = "confidence" if evaluation.expression else "distance"
    return [
        Thumbnail(
            mistake.image,
            {
                "true": mistake.true,
                "predicted": mistake.predicted,
                kind: f"{mistake.severity:.0%}" if kind == "confidence" else f"{mistake.severity:.2f}",
                "path": mistake.path,
            },
        )
        for mistake in evaluation.mistakes
    ]
