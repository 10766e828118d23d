"""Tables of metrics, for the terminal, Markdown and the report."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table as RichTable

from fer.evaluation.report import Table, format_estimate
from fer.ferbench.compare import Comparison
from fer.ferbench.evaluate import CLEAR, POOLED, ModelMetrics
from fer.ferbench.metrics import ProtocolMetrics
from fer.ferbench.predictions import Protocol

MIN_P = 1e-15

PROTOCOL_CAPTIONS = {
    "unifer": "Responses are parsed like in UniFER's scripts: the letters of a label anywhere in the response count, "
    "errors are excluded, and a response without a label is a class of its own in the macro averages.",
    "strict": "Errors and unparsable responses are wrong, only the answer part is read, and only whole words count.",
}


def metrics_table(models: Sequence[ModelMetrics], protocol: Protocol) -> Table:
    """One row for each model and data set for which the protocol is defined."""
    rows = []
    for model in models:
        for subset in model.subsets:
            if (metrics := subset.protocol(protocol)) is not None:
                estimates = (metrics.accuracy, metrics.precision, metrics.recall, metrics.f1, metrics.uar)
                counts = (subset.questions, metrics.errors, metrics.unknowns)
                cells = [*map(format_estimate, estimates), *(f"{count:,}" for count in counts)]
                rows.append([model.model, subset.title, *cells])
    columns = ("model", "data", "accuracy", "precision", "recall", "F1", "UAR", "questions", "errors", "unknown")
    return Table(f"Metrics, {protocol}", columns, rows, PROTOCOL_CAPTIONS[protocol])


def leaderboard(models: Sequence[ModelMetrics], protocol: Protocol) -> Table:
    """Models in rows, data sets in columns: accuracy with its interval, the best model first."""
    titles = {subset.name: subset.title for model in models for subset in model.subsets}
    names = sorted(titles, key=lambda name: name == POOLED)  # the pooled data sets are the last column

    def metrics_of(model: ModelMetrics, name: str) -> ProtocolMetrics | None:
        subset = model.subset(name)
        return subset.protocol(protocol) if subset else None

    def sort_key(model: ModelMetrics) -> list[float]:
        cells = [metrics_of(model, name) for name in reversed(names)]
        return [-metrics.accuracy.value if metrics else 1.0 for metrics in cells]

    rows = []
    for model in sorted(models, key=sort_key):
        cells = [metrics_of(model, name) for name in names]
        rows.append([model.model, *(format_estimate(metrics.accuracy) if metrics else "–" for metrics in cells)])
    columns = ("model", *(titles[name] for name in names))
    return Table(f"Accuracy, {protocol}", columns, rows, PROTOCOL_CAPTIONS[protocol])


def classes_table(models: Sequence[ModelMetrics]) -> Table:
    """Strict metrics of each class, over all data sets of each model."""
    rows = []
    for model in models:
        subset = model.overall
        for each in subset.strict.classes:
            estimates = map(format_estimate, (each.precision, each.recall, each.f1))
            rows.append([model.model, subset.title, each.label, *estimates, f"{each.support:,}", f"{each.predicted:,}"])
    columns = ("model", "data", "class", "precision", "recall", "F1", "questions", "predicted")
    return Table("Classes, strict", columns, rows)


def responses_table(models: Sequence[ModelMetrics]) -> Table:
    """Format, length, throughput and cost of responses."""
    rows = []
    for model in models:
        usage = model.usage or {}
        seconds = usage.get("engine_seconds") or 0
        throughput = f"{usage['responses'] / seconds:.2f}" if seconds else "–"
        cost = f"{usage['cost']:.2f}" if usage.get("cost") else "–"
        for subset in model.subsets:
            if (stats := subset.responses) is None:
                continue
            tokens = f"{stats.mean_tokens:.0f}" if stats.mean_tokens is not None else "–"
            cells = [f"{stats.well_formed:.1%}", f"{stats.tagged:.1%}", f"{stats.median_words:.0f}", tokens]
            rows.append([model.model, subset.title, *cells, throughput, cost])
    columns = ("model", "data", "well-formed", "answer tag", "median words", "mean tokens", "responses/s", "cost")
    caption = (
        "Well-formed: <think>...</think><answer>...</answer>. Responses per second and engine, and the cost, are those "
        "of the model's whole run; the cost is in the currency of the given prices."
    )
    return Table("Responses", columns, rows, caption)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Pairs of models, and whether one is correct more often."""
    rows = [
        [
            f"{pair.first} – {pair.second}",
            f"{pair.questions:,}",
            format_estimate(pair.difference),
            f"{pair.only_first:,} / {pair.only_second:,}",
            f"{pair.adjusted_p:.2g}" if pair.adjusted_p > MIN_P else f"< {MIN_P}",
        ]
        for pair in comparisons
    ]
    columns = ("models", "questions", "difference in accuracy", "only one correct", "p")
    caption = "On shared questions, strict. McNemar's exact test, p adjusted for the number of pairs (Holm)."
    return Table("Pairs of models", columns, rows, caption)


def differences_table(models: Sequence[ModelMetrics]) -> Table:
    """Why the protocols differ, for each single data set."""
    rows = []
    for model in models:
        for subset in model.subsets:
            if subset.name in (POOLED, CLEAR):
                continue
            for difference in subset.differences:
                example = difference.examples[0]
                labels = f"{example.true} · {example.unifer or 'excluded'} · {example.strict or 'wrong'}"
                correct = f"{difference.right_in_unifer:,} / {difference.right_in_strict:,}"
                cells = [difference.reason, f"{difference.rows:,}", correct, labels, example.response]
                rows.append([model.model, subset.title, *cells])
    columns = ("model", "data", "reason", "responses", "correct: unifer / strict", "true · unifer · strict", "example")
    caption = (
        "Where a headline metric differs by more than half a percentage point: all responses that the protocols parse "
        "differently."
    )
    return Table("Why the protocols differ", columns, rows, caption)


def to_rich(table: Table) -> RichTable:
    """A table for the terminal, with its title and caption."""
    rich_table = RichTable(*table.columns, title=table.title, caption=table.caption, box=None, header_style="bold")
    for row in table.rows:
        rich_table.add_row(*map(escape, row))
    return rich_table


def to_markdown(table: Table) -> str:
    """A table in GitHub's Markdown, under a heading with its title."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    rows = [line(table.columns), line(["---"] * len(table.columns)), *map(line, table.rows)]
    return "\n".join([f"## {table.title}", "", *rows, *(["", table.caption] if table.caption else []), ""])
