"""An evaluation of a classifier in words and tables, for the terminal and for the report."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table as RichTable

from fer.classifier.evaluate.evaluator import Evaluation
from fer.evaluation.report import Headline, Table, format_estimate


def headlines(evaluation: Evaluation) -> list[Headline]:
    """The figures to look at first."""
    found = []
    if (expression := evaluation.expression) is not None:
        found = [
            Headline("Accuracy", expression.accuracy, description="share of right labels"),
            Headline("Macro F1", expression.macro_f1, description="mean F1 of the classes"),
            Headline("Weighted F1", expression.weighted_f1, description="F1 of the classes, weighted by rows"),
            Headline("UAR", expression.uar, description="mean recall of the classes: balanced accuracy"),
            Headline("Top-2 accuracy", expression.top2_accuracy, description="right label among the two most probable"),
            Headline("Calibration error", expression.ece, description="expected calibration error, 15 bins"),
        ]
    for name, figures in evaluation.affect.items():
        found += [
            Headline(f"CCC, {name}", figures.ccc, False, "concordance correlation coefficient"),
            Headline(f"Pearson, {name}", figures.pearson, False, "correlation coefficient"),
            Headline(f"RMSE, {name}", figures.rmse, False, "root mean square error; values are in [-1, 1]"),
            Headline(f"Sign agreement, {name}", figures.sign_agreement, description="share with the right sign (SAGR)"),
        ]
    return found


def coverage_sentences(evaluation: Evaluation) -> list[str]:
    """What was judged and what was not, in plain words."""
    coverage, expression = evaluation.coverage, evaluation.expression
    said = [f"{coverage.rows:,} of the {coverage.split_rows:,} rows of the split {coverage.split!r} were judged."]
    if coverage.filter is not None:
        said.append(f"{coverage.filtered:,} rows were left out because their path does not match {coverage.filter!r}.")
    renamed = [f"{label} as {known}" for label, known in coverage.mapping.items() if known not in (None, label)]
    if renamed:
        said.append(f"Labels were mapped to the model's: {', '.join(renamed)}.")
    if coverage.unknown_labels:
        dropped = ", ".join(f"{label} ({rows:,})" for label, rows in coverage.unknown_labels.most_common())
        said.append(f"Rows with labels that the model does not know are not in the expression figures: {dropped}.")
    if coverage.missing_classes:
        said.append(
            f"No judged row is labelled {', '.join(coverage.missing_classes)}. The model said so "
            f"{coverage.predicted_missing:,} times, which count as mistakes; macro averages run over the other classes."
        )
    for name, figures in evaluation.affect.items():
        if figures.unlabelled:
            said.append(f"{figures.unlabelled:,} judged rows have no {name} and are not in its figures.")
    if coverage.unreadable:
        path, reason = coverage.unreadable[0]
        said.append(f"{len(coverage.unreadable):,} images could not be read ({path}: {reason}).")
    if expression is not None and expression.groups is not None:
        said.append(f"Intervals resample {expression.groups:,} groups (subjects or videos), not single rows.")
    return said


def class_table(evaluation: Evaluation) -> Table | None:
    if evaluation.expression is None:
        return None
    rows = [
        [
            each.label,
            format_estimate(each.precision),
            format_estimate(each.recall),
            format_estimate(each.f1),
            f"{each.support:,}",
            f"{each.predicted:,}",
        ]
        for each in evaluation.expression.classes
    ]
    return Table("Classes", ("class", "precision", "recall", "F1", "rows", "predicted"), rows)


def console(evaluation: Evaluation) -> RenderableType:
    """The headline figures and the classes, for a terminal."""
    top = RichTable("figure", "value", "95% interval", box=None, header_style="bold")
    for headline in headlines(evaluation):
        value, _, interval = format_estimate(headline.estimate, headline.percent).partition(" ")
        top.add_row(headline.name, value, interval.strip("()"))
    if evaluation.expression is None:
        return top
    classes = RichTable(
        "class", "precision", "recall", "F1", "95% interval", "rows", "predicted", box=None, header_style="bold"
    )
    for each in evaluation.expression.classes:
        value, _, interval = format_estimate(each.f1).partition(" ")
        precision, recall = (format_estimate(figure, interval=False) for figure in (each.precision, each.recall))
        counts = f"{each.support:,}", f"{each.predicted:,}"
        classes.add_row(each.label, precision, recall, value, interval.strip("()"), *counts)
    return Group(top, "", classes)
