"""An evaluation in a sentence and tables, for the terminal and for the report."""

from __future__ import annotations

from rich.table import Table as RichTable

from fer.dynamics.evaluate.evaluator import DynamicsEvaluation
from fer.dynamics.metrics import METRIC_RANGES
from fer.dynamics.scores import SCORES
from fer.evaluation.report import Headline, Table, format_estimate

NAMES = {
    "mse": "MSE",
    "mae": "MAE",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "kappa": "kappa",
    "icc": "ICC",
    "accuracy": "accuracy",
    "within_half": "within 0.5",
    "within_one": "within 1",
}
STAGE_METRICS = ("mse", "mae", "kappa", "icc", "accuracy")
"""Metrics shown for every stage; the last one is shown with all of them."""
HEADLINES = {
    "mse": "mean squared error",
    "kappa": "Cohen's kappa with quadratic weights, of rounded scores",
    "icc": "ICC(2,1), agreement with the annotators",
    "within_one": "fraction at most 1 from the true level",
}


def coverage_sentence(evaluation: DynamicsEvaluation) -> str:
    """What was evaluated, and the bias of the validation split."""
    videos = len({pair.video for pair in evaluation.frames})
    sentence = f"Evaluated on {len(evaluation.frames):,} frames of {videos:,} videos ({evaluation.split})."
    if evaluation.split != "test":
        sentence += " The best weights were selected on these frames, so the metrics are optimistic."
    return sentence


def headlines(evaluation: DynamicsEvaluation) -> list[Headline]:
    """The most important metrics of each score."""
    return [
        Headline(f"{NAMES[name]}, {score}", getattr(metrics, name), name == "within_one", description)
        for score, metrics in evaluation.metrics.items()
        for name, description in HEADLINES.items()
    ]


def stage_table(evaluation: DynamicsEvaluation) -> Table:
    """A row per stage."""
    rows = []
    for stage in evaluation.estimates:
        metrics = evaluation.stage_metrics(stage)
        rows.append([stage, *(f"{metrics[score][name]:.3f}" for score in SCORES for name in STAGE_METRICS)])
    return Table("Stages", ("stage", *(f"{score} {NAMES[name]}" for score in SCORES for name in STAGE_METRICS)), rows)


def level_table(evaluation: DynamicsEvaluation) -> Table:
    """Accuracy per true level."""
    rows = [
        [f"{score} {level.level}", f"{level.rows:,}", "–" if level.accuracy is None else f"{level.accuracy:.1%}"]
        for score, metrics in evaluation.metrics.items()
        for level in metrics.levels
    ]
    return Table("Levels", ("true level", "frames", "accuracy of the rounded score"), rows)


def metric_table(evaluation: DynamicsEvaluation) -> Table:
    """All metrics of the last stage with their intervals."""
    rows = [
        [NAMES[name], *(format_estimate(getattr(evaluation.metrics[score], name), False) for score in SCORES)]
        for name in METRIC_RANGES
    ]
    return Table("Metrics of the last stage", ("metric", *SCORES), rows, "With 95% intervals over videos.")


def console_table(evaluation: DynamicsEvaluation) -> RichTable:
    """A row per score and stage, for a terminal."""
    table = RichTable("score", "stage", *(NAMES[name] for name in STAGE_METRICS), box=None, header_style="bold")
    for score in SCORES:
        for stage in evaluation.estimates:
            metrics = evaluation.stage_metrics(stage)[score]
            table.add_row(score, stage, *(f"{metrics[name]:.3f}" for name in STAGE_METRICS))
    return table
