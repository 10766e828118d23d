"""The outputs of an evaluation: metrics.json, predictions.csv, plots and report.html, also logged to MLflow."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.csv

from fer.dynamics import plots
from fer.dynamics.evaluate.evaluator import DynamicsEvaluation
from fer.dynamics.evaluate.summary import coverage_sentence, headlines, level_table, metric_table, stage_table
from fer.dynamics.options import DynamicsConfig
from fer.dynamics.predict.reader import frame_table
from fer.dynamics.scores import DISCLAIMER
from fer.dynamics.stage_folders import StageHistory
from fer.evaluation.plots import confusion_matrix, to_png
from fer.evaluation.report import Plot, Report, render_html
from fer.tracking import Run
from fer.training.run import RunFolder

LIMITATIONS = (
    DISCLAIMER,
    "The metrics are the agreement with the annotators of this data, for videos like these. Evaluate on your own "
    "recordings before you rely on the model. Intervals show how much a metric would vary with other videos of the "
    "same kind.",
)


def log_results(
    config: DynamicsConfig,
    run: RunFolder,
    tracking: Run,
    evaluation: DynamicsEvaluation,
    histories: Mapping[str, StageHistory] | None = None,
    stages: Mapping[str, Run] | None = None,
) -> None:
    """Write the results to the run's folder, log them to its MLflow run and those of its stages, and finish it."""
    sections = {
        "Data": {"data": config.data, "content hash": run.record["data_hash"], "split": evaluation.split},
        "Settings": config.model_dump(),
        "Versions": {**run.record["versions"], "commit": run.record["commit"] or "not from a repository"},
    }
    with tempfile.TemporaryDirectory() as scratch:
        write_results(evaluation, histories or {}, sections, f"Facial dynamics: {run.name}", Path(scratch))
        run.upload(Path(scratch))
        tracking.log_artifacts(Path(scratch))
    for stage, stage_run in (stages or {}).items():
        stage_run.log_metrics(_flatten(evaluation, stage), step=0)
    tracking.log_metrics(_flatten(evaluation, evaluation.last_stage), step=0)
    tracking.finish()


def write_results(
    evaluation: DynamicsEvaluation,
    histories: Mapping[str, StageHistory],
    sections: Mapping[str, Mapping[str, Any]],
    title: str,
    out: Path,
) -> None:
    """Write all files to the folder ``out``. ``sections`` are shown at the end of the report."""
    (out / "training_history.json").write_text(json.dumps(histories, indent=2))
    stages = {stage: evaluation.stage_metrics(stage) for stage in evaluation.estimates}
    final = {score: metrics.model_dump() for score, metrics in evaluation.metrics.items()}
    (out / "metrics.json").write_text(
        json.dumps({"split": evaluation.split, "stages": stages, "final": final}, indent=2)
    )
    pyarrow.csv.write_csv(frame_table(evaluation.frames, evaluation.final), out / "predictions.csv")
    figures = {"Agreement": plots.agreement(evaluation.true, evaluation.final)}
    for score, metrics in evaluation.metrics.items():
        levels = [str(level.level) for level in metrics.levels]
        figures[f"Confusion {score}"] = confusion_matrix(levels, metrics.confusion)
    if histories:
        figures["Training curves"] = plots.training_curves(histories)
        figures["Stage losses"] = plots.stage_losses(histories)
    images = {name: to_png(figure) for name, figure in figures.items()}
    for name, image in images.items():
        (out / f"{name.lower().replace(' ', '_')}.png").write_bytes(image)
    report = Report(
        title=title,
        summary=[coverage_sentence(evaluation)],
        headlines=headlines(evaluation),
        tables=[stage_table(evaluation), level_table(evaluation), metric_table(evaluation)],
        plots=[Plot(name, image) for name, image in images.items()],
        sections=sections,
        limitations=LIMITATIONS,
    )
    (out / "report.html").write_text(render_html(report), encoding="utf-8")


def _flatten(evaluation: DynamicsEvaluation, stage: str) -> dict[str, float]:
    """A stage's metrics with one name each, such as best_val_dynamics_mse."""
    return {
        f"best_{evaluation.split}_{score}_{name}": value
        for score, metrics in evaluation.stage_metrics(stage).items()
        for name, value in metrics.items()
    }
