"""What a training leaves: figures of every stage, predictions, plots, and the HTML report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from rich.table import Table as RichTable

from fer.dynamics import plots
from fer.dynamics.frames import FramePair
from fer.dynamics.metrics import RANGES, ScoreFigures, judge, values
from fer.dynamics.predictor import Scorer, levels
from fer.dynamics.scores import NOTE, NOTICE, SCORES
from fer.dynamics.stages import History, finished, opened
from fer.evaluation.plots import confusion_matrix, to_png
from fer.evaluation.report import Headline, Plot, Report, Table, format_estimate, render_html

LIMITATIONS = (
    NOTICE,
    "Figures say how far the scores agree with those of the data's annotators, for videos like these. Judge again on "
    "your own recordings before you rely on them. Intervals say how far a figure would move with other videos of the "
    "same kind.",
)
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
SHOWN = ("mse", "mae", "kappa", "icc", "accuracy")
"""Figures of every stage; the last one has all of them."""
MEANINGS = {
    "mse": "mean squared error",
    "kappa": "Cohen's kappa with quadratic weights, of rounded scores",
    "icc": "ICC(2,1), agreement with the annotators",
    "within_one": "share at most 1 from the true level",
}


@dataclass
class Judged:
    """Frames with known scores, and what each stage says of them."""

    frames: Sequence[FramePair]
    part: str
    """What the frames are: val, test, or all of them, each judged in its own fold."""
    estimates: Mapping[str, np.ndarray]
    """Scores (N, 2) by stage, in the order of the stages; those of the last one are the model's."""

    @cached_property
    def true(self) -> np.ndarray:
        """True levels (N, 2)."""
        return np.array([pair.scores for pair in self.frames])

    @property
    def final(self) -> np.ndarray:
        return list(self.estimates.values())[-1]

    @cached_property
    def figures(self) -> dict[str, ScoreFigures]:
        """Of the last stage, with intervals over videos."""
        videos = [pair.video for pair in self.frames]
        return {
            score: judge(score, top, self.true[:, column], self.final[:, column], videos)
            for column, (score, top) in enumerate(SCORES.items())
        }

    def of_stage(self, stage: str) -> dict[str, dict[str, float]]:
        """A stage's figures for each score, without intervals."""
        return {
            score: values(self.true[:, column], self.estimates[stage][:, column], top)
            for column, (score, top) in enumerate(SCORES.items())
        }


def judge_stages(root: str, frames: Sequence[FramePair], splits: Sequence[str]) -> Judged:
    """Score the test part, or else the validation part, with the best weights of every finished stage of a run."""
    part = "test" if "test" in splits else "val"
    chosen = [pair for pair, split in zip(frames, splits, strict=True) if split == part]
    estimates: dict[str, np.ndarray] = {}
    for stage in finished(root):
        with opened(root, stage) as folder:
            estimates[stage] = Scorer(folder)(chosen)
    return Judged(chosen, part, estimates)


def join(judged: Sequence[Judged]) -> Judged:
    """The folds of a cross-validation as one: every frame judged by the model that has not seen its video."""
    estimates = {stage: np.concatenate([fold.estimates[stage] for fold in judged]) for stage in judged[0].estimates}
    return Judged([pair for fold in judged for pair in fold.frames], "cross-validation", estimates)


def write_results(
    judged: Judged, histories: Mapping[str, History], facts: Mapping[str, Mapping[str, Any]], title: str, out: Path
) -> None:
    """Write the tables, plots and the report into the folder ``out``. ``facts`` are the report's last sections."""
    (out / "training_history.json").write_text(json.dumps(histories, indent=2))
    stages = {stage: judged.of_stage(stage) for stage in judged.estimates}
    final = {score: figures.model_dump() for score, figures in judged.figures.items()}
    (out / "metrics.json").write_text(json.dumps({"part": judged.part, "stages": stages, "final": final}, indent=2))
    pyarrow.csv.write_csv(predictions(judged.frames, judged.final), out / "predictions.csv")
    drawings = {"Agreement": plots.agreement(judged.true, judged.final)}
    for score, figures in judged.figures.items():
        names = [str(level.level) for level in figures.levels]
        drawings[f"Confusion {score}"] = confusion_matrix(names, figures.confusion)
    if histories:
        drawings |= {"Training curves": plots.training_curves(histories)}
        drawings |= {"Stage losses": plots.stage_losses(histories)}
    pictures = {name: to_png(drawing) for name, drawing in drawings.items()}
    for name, picture in pictures.items():
        (out / f"{name.lower().replace(' ', '_')}.png").write_bytes(picture)
    report = Report(
        title=title,
        summary=[sentence(judged)],
        headlines=[
            Headline(f"{NAMES[name]}, {score}", getattr(figures, name), name == "within_one", meaning)
            for score, figures in judged.figures.items()
            for name, meaning in MEANINGS.items()
        ],
        tables=[stage_table(judged), level_table(judged), figure_table(judged)],
        plots=[Plot(name, picture) for name, picture in pictures.items()],
        sections=facts,
        limitations=LIMITATIONS,
    )
    (out / "report.html").write_text(render_html(report), encoding="utf-8")


def predictions(frames: Sequence[FramePair], scores: np.ndarray) -> pa.Table:
    """One row a frame: where it is, its scores as real numbers and as levels, and the true levels where known."""
    columns: dict[str, Any] = {name: [getattr(pair, name) for pair in frames] for name in ("path", "video", "frame")}
    for column, score in enumerate(SCORES):
        columns[score] = np.round(scores[:, column].astype(float), 4)
        columns[f"{score}_level"] = levels(scores[:, column])
        columns[f"true_{score}"] = pa.array(
            [pair.scores[column] if pair.scores else None for pair in frames], pa.int64()
        )
    columns["note"] = [NOTE] * len(frames)
    return pa.table(columns)


def sentence(judged: Judged) -> str:
    """What was judged, in plain words."""
    videos = len({pair.video for pair in judged.frames})
    chosen = " Its best weights were chosen by this part, so the figures flatter it." if judged.part != "test" else ""
    return f"{len(judged.frames):,} frames of {videos:,} videos were judged ({judged.part}).{chosen}"


def stage_table(judged: Judged) -> Table:
    """A row for each stage."""
    rows = []
    for stage in judged.estimates:
        found = judged.of_stage(stage)
        rows.append([stage, *(f"{found[score][name]:.3f}" for score in SCORES for name in SHOWN)])
    return Table("Stages", ("stage", *(f"{score} {NAMES[name]}" for score in SCORES for name in SHOWN)), rows)


def level_table(judged: Judged) -> Table:
    """The accuracy of each true level."""
    rows = [
        [f"{score} {level.level}", f"{level.rows:,}", "–" if level.accuracy is None else f"{level.accuracy:.1%}"]
        for score, figures in judged.figures.items()
        for level in figures.levels
    ]
    return Table("Levels", ("true level", "frames", "rounded score is that level"), rows)


def figure_table(judged: Judged) -> Table:
    """Every figure of the last stage, with its interval."""
    rows = [
        [NAMES[name], *(format_estimate(getattr(judged.figures[s], name), False) for s in SCORES)] for name in RANGES
    ]
    return Table("Figures of the last stage", ("figure", *SCORES), rows, "With 95% intervals over videos.")


def console(judged: Judged) -> RichTable:
    """The same for a terminal, where rows of both scores stand below each other."""
    shown = RichTable("score", "stage", *(NAMES[name] for name in SHOWN), box=None, header_style="bold")
    for score in SCORES:
        for stage in judged.estimates:
            found = judged.of_stage(stage)[score]
            shown.add_row(score, stage, *(f"{found[name]:.3f}" for name in SHOWN))
    return shown
