"""The output files of an evaluation: metrics.json, predictions.csv, plots and report.html."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from matplotlib.figure import Figure

from fer.classifier.evaluate.evaluator import MAX_POINTS, Evaluation
from fer.classifier.evaluate.summary import class_table, describe_coverage, headline_metrics, subgroup_tables
from fer.classifier.spec import ModelSpec
from fer.data.manifest import ShardedDataset
from fer.evaluation import plots
from fer.evaluation.report import Plot, Report, Thumbnail, render_html
from fer.storage import open_path
from fer.training.run import commit, versions

REVIEW = "review.csv"
CAPTIONS = {
    "Confusion matrix": "Rows are true labels; colours and percentages are fractions of the row.",
    "Classes": "Precision, recall and F1 with 95% intervals.",
    "Reliability": "Accuracy by confidence; a line above its bar is overconfidence.",
    "Training": "Metrics of the training run.",
    "Valence and arousal": f"Each dot is a row, {MAX_POINTS:,} at most; on the dashed line, the estimate is exact.",
}


@dataclass
class EvaluationSetup:
    """Model, data and settings of an evaluation."""

    model: str
    """The model reference, as given."""
    folder: Path
    spec: ModelSpec
    data: str
    dataset: ShardedDataset
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options that affect the metrics, such as ``tta`` and the seed."""
    history: Sequence[Mapping[str, float]] = ()
    """Epochs of the training run's `history.json`; empty if there is none."""


class PredictionsFile:
    """A CSV file of predictions, written batch by batch.

    With ``min_confidence``, the rows with a lower confidence are also in `REVIEW` beside it.
    """

    def __init__(self, path: Path, min_confidence: float = 0.0) -> None:
        self.path, self.min_confidence = path, min_confidence
        self._writers: dict[Path, pyarrow.csv.CSVWriter] = {}

    def __enter__(self) -> PredictionsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        while self._writers:
            self._writers.popitem()[1].close()

    def write(self, rows: pa.Table) -> None:
        self._append(self.path, rows)
        if self.min_confidence:
            uncertain = rows.filter(pc.less(rows["confidence"], self.min_confidence))
            self._append(self.path.with_name(REVIEW), uncertain)

    def _append(self, path: Path, rows: pa.Table) -> None:
        if path not in self._writers:
            self._writers[path] = pyarrow.csv.CSVWriter(path, rows.schema)
        self._writers[path].write_table(rows)


def write_results(
    evaluation: Evaluation, setup: EvaluationSetup, predictions: Path, out: Path, thumbnails: bool = True
) -> Path:
    """Write all files to the folder ``out``, and move the file of ``predictions`` and its `REVIEW` there.

    Returns the report's path.
    """
    out.mkdir(parents=True, exist_ok=True)
    sections = describe_setup(setup)
    affect = {name: values.model_dump() for name, values in evaluation.affect.items()}
    metrics = {
        "coverage": evaluation.coverage.model_dump(),
        "expression": evaluation.expression.model_dump() if evaluation.expression else None,
        "affect": affect or None,
        "subgroups": {each.attribute: each.model_dump() for each in evaluation.subgroups} or None,
        "review": evaluation.review.model_dump() if evaluation.review else None,
        **{heading.lower(): section for heading, section in sections.items()},
    }
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    shutil.move(predictions, out / "predictions.csv")
    if evaluation.review:
        shutil.move(predictions.with_name(REVIEW), out / REVIEW)
    images = {title: plots.to_png(figure) for title, figure in make_plots(evaluation, setup.history).items()}
    for title, png in images.items():
        (out / f"{title.lower().replace(' ', '-')}.png").write_bytes(png)
    classes = class_table(evaluation)
    report = Report(
        title=f"{setup.spec.options.backbone} on {Path(setup.data).name}, {evaluation.coverage.split}",
        summary=describe_coverage(evaluation),
        headlines=headline_metrics(evaluation),
        tables=[*([classes] if classes else []), *subgroup_tables(evaluation)],
        plots=[Plot(title, png, CAPTIONS[title]) for title, png in images.items()],
        thumbnails=_thumbnails(evaluation) if thumbnails else [],
        thumbnails_title="Worst mistakes" if evaluation.expression else "Largest errors",
        sections=sections,
    )
    (out / "report.html").write_text(render_html(report), encoding="utf-8")
    return out / "report.html"


def find_history(model: str, spec: ModelSpec, storage: str) -> list[dict[str, float]]:
    """`history.json` of the training run: in the model folder, beside it, or in the run's folder; else empty."""
    run = f"{storage.rstrip('/')}/{spec.training.get('run', '')}"
    for location in (open_path(model), open_path(model).parent, open_path(run)):
        if (location / "history.json").is_file():
            return json.loads((location / "history.json").read_text())
    return []


def describe_setup(setup: EvaluationSetup) -> dict[str, dict[str, Any]]:
    """Model, data, settings and versions: names and values by heading."""
    spec, manifest = setup.spec, setup.dataset.manifest
    options = spec.options
    training = {f"training {name}": str(value) for name, value in spec.training.items()}
    return {
        "Model": {
            "model": setup.model,
            "folder": str(setup.folder),
            "backbone": options.backbone,
            "head": options.head,
            "input": f"{options.img_size}x{options.img_size}, {'grey' if options.in_chans == 1 else 'colour'}",
            "labels": ", ".join(spec.labels),
            **training,
        },
        "Data": {
            "data": setup.data,
            "shards": setup.dataset.root,
            "labels": ", ".join(manifest.labels),
            "content hash": manifest.content_hash,
            "rejected rows": "; ".join(f"{rows:,}: {reason}" for reason, rows in manifest.rejected.items()) or "none",
        },
        "Settings": dict(setup.settings),
        "Versions": {**versions(), "commit": commit() or "not from a repository"},
    }


def make_plots(evaluation: Evaluation, history: Sequence[Mapping[str, float]]) -> dict[str, Figure]:
    """The plots, by title, that the evaluation has data for."""
    figures: dict[str, Figure] = {}
    if (expression := evaluation.expression) is not None:
        figures["Confusion matrix"] = plots.confusion_matrix(expression.labels, expression.confusion)
        figures["Reliability"] = plots.reliability_diagram(expression.reliability)
        figures["Classes"] = plots.class_bars(expression.classes)
    if evaluation.affect:
        points = evaluation.affect_points
        figures["Valence and arousal"] = plots.valence_arousal(points[:, 0], points[:, 1])
    if (curves := plots.training_curves(history)) is not None:
        figures["Training"] = curves
    return figures


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
