"""Figures of models as tables: for the terminal, for Markdown and for the report."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table as RichTable

from fer.evaluation.report import Table, format_estimate
from fer.ferbench.compare import Comparison
from fer.ferbench.evaluate import CLEAR, POOLED, ModelScores, PartScores
from fer.ferbench.metrics import Scores
from fer.ferbench.predictions import Protocol

SMALLEST_P = 1e-15

EXPLAINED = {
    "unifer": "As UniFER's scripts read answers: the letters of a label anywhere in the response count, errors are "
    "left out, and an answer without a label is a class of its own in the macro averages.",
    "strict": "Errors and unreadable answers are wrong, only the answer part is read, and only whole words count.",
}


def scores_table(models: Sequence[ModelScores], protocol: Protocol) -> Table:
    """One row for each model and data set that the protocol is defined for."""
    rows = []
    for model in models:
        for part in model.parts:
            scores = part.unifer if protocol == "unifer" else part.strict
            if scores is not None:
                rows.append([model.model, part.title, *_figures(scores), *_counts(part, scores)])
    columns = ("model", "data", "accuracy", "precision", "recall", "F1", "UAR", "questions", "errors", "unknown")
    return Table(f"Scores, {protocol}", columns, rows, EXPLAINED[protocol])


def _figures(scores: Scores) -> list[str]:
    return [
        format_estimate(figure) for figure in (scores.accuracy, scores.precision, scores.recall, scores.f1, scores.uar)
    ]


def _counts(part: PartScores, scores: Scores) -> list[str]:
    return [f"{count:,}" for count in (part.questions, scores.errors, scores.unknowns)]


def leaderboard(models: Sequence[ModelScores], protocol: Protocol) -> Table:
    """Models in rows, data sets in columns: accuracy with its interval, the best model first."""
    titles = {part.name: part.title for model in models for part in model.parts}
    # What all four say together comes last, whoever was asked what.
    names = sorted(titles, key=lambda name: name == POOLED)

    def accuracy(model: ModelScores, name: str) -> float:
        scores = _scores(model, name, protocol)
        return scores.accuracy.value if scores else -1.0

    ordered = sorted(models, key=lambda model: [-accuracy(model, name) for name in reversed(names)])
    rows = []
    for model in ordered:
        cells = [_scores(model, name, protocol) for name in names]
        rows.append([model.model, *(format_estimate(scores.accuracy) if scores else "–" for scores in cells)])
    return Table(f"Accuracy, {protocol}", ("model", *(titles[name] for name in names)), rows, EXPLAINED[protocol])


def _scores(model: ModelScores, name: str, protocol: Protocol) -> Scores | None:
    part = model.part(name)
    if part is None:
        return None
    return part.unifer if protocol == "unifer" else part.strict


def classes_table(models: Sequence[ModelScores]) -> Table:
    """Each class, strict, of the most that each model was asked."""
    rows = []
    for model in models:
        part = model.whole
        for each in part.strict.classes:
            figures = [format_estimate(figure) for figure in (each.precision, each.recall, each.f1)]
            rows.append([model.model, part.title, each.label, *figures, f"{each.support:,}", f"{each.predicted:,}"])
    columns = ("model", "data", "class", "precision", "recall", "F1", "questions", "predicted")
    return Table("Classes, strict", columns, rows)


def answers_table(models: Sequence[ModelScores]) -> Table:
    """What answers look like, how fast they came, and what they cost."""
    rows = []
    for model in models:
        usage = model.usage or {}
        seconds = usage.get("engine_seconds") or 0
        speed = f"{usage['responses'] / seconds:.2f}" if seconds else "–"
        cost = f"{usage['cost']:.2f}" if usage.get("cost") else "–"
        for part in model.parts:
            if part.form is None:
                continue
            tokens = f"{part.form.tokens:.0f}" if part.form.tokens is not None else "–"
            shares = [f"{part.form.well_formed:.1%}", f"{part.form.tagged:.1%}"]
            rows.append([model.model, part.title, *shares, f"{part.form.words:.0f}", tokens, speed, cost])
    columns = ("model", "data", "well-formed", "answer tag", "median words", "mean tokens", "answers/s", "cost")
    caption = (
        "Well-formed: <think>...</think><answer>...</answer>. Answers per second of one engine, and cost, are those of "
        "the model's whole run; the cost is in the unit of the prices given."
    )
    return Table("Answers", columns, rows, caption)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Pairs of models, and whether one is right more often."""
    rows = [
        [
            f"{pair.first} – {pair.second}",
            f"{pair.questions:,}",
            format_estimate(pair.difference),
            f"{pair.only_first:,} / {pair.only_second:,}",
            f"{pair.adjusted_p:.2g}" if pair.adjusted_p > SMALLEST_P else f"< {SMALLEST_P}",
        ]
        for pair in comparisons
    ]
    columns = ("models", "questions", "difference in accuracy", "only one right", "p")
    caption = "On the same questions, strict. McNemar's exact test, p adjusted for the number of pairs (Holm)."
    return Table("Pairs of models", columns, rows, caption)


def differences_table(models: Sequence[ModelScores]) -> Table:
    """Why the protocols differ, for each data set by itself."""
    rows = []
    for model in models:
        for part in model.parts:
            if part.name in (POOLED, CLEAR):
                continue
            for difference in part.differences:
                example = difference.examples[0]
                read = f"{example.true} · {example.unifer or 'left out'} · {example.strict or 'wrong'}"
                verdicts = f"{difference.right_in_unifer:,} / {difference.right_in_strict:,}"
                count = f"{difference.rows:,}"
                rows.append([model.model, part.title, difference.reason, count, verdicts, read, example.response])
    columns = ("model", "data", "reason", "answers", "right: unifer / strict", "true · unifer · strict", "such as")
    caption = "Where a headline figure differs by over half a point: all answers that the protocols read differently."
    return Table("Why the protocols differ", columns, rows, caption)


def console(table: Table) -> RichTable:
    """A table for the terminal, under its title."""
    shown = RichTable(*table.columns, title=table.title, caption=table.caption, box=None, header_style="bold")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    return shown


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown, under its title."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    rows = [line(table.columns), line(["---"] * len(table.columns)), *map(line, table.rows)]
    return "\n".join([f"## {table.title}", "", *rows, *(["", table.caption] if table.caption else []), ""])
