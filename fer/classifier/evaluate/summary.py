"""The results of an evaluation as text and tables, for the terminal and the report."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table as RichTable

from fer.classifier.evaluate.evaluator import Coverage, Evaluation
from fer.evaluation.report import Headline, Table, format_estimate
from fer.evaluation.subgroups import MIN_ROWS, SubgroupMetrics


def headline_metrics(evaluation: Evaluation) -> list[Headline]:
    """The most important metrics."""
    headlines = []
    if (expression := evaluation.expression) is not None:
        headlines = [
            Headline("Accuracy", expression.accuracy, description="fraction of correct labels"),
            Headline("Macro F1", expression.macro_f1, description="mean F1 of the classes"),
            Headline("Weighted F1", expression.weighted_f1, description="F1 of the classes, weighted by rows"),
            Headline("UAR", expression.uar, description="mean recall of the classes (balanced accuracy)"),
            Headline(
                "Top-2 accuracy", expression.top2_accuracy, description="correct label among the two most probable"
            ),
            Headline("Calibration error", expression.ece, description="expected calibration error, 15 bins"),
            Headline("Loss", expression.loss, False, "mean cross-entropy"),
        ]
    for name, metrics in evaluation.affect.items():
        headlines += [
            Headline(f"CCC, {name}", metrics.ccc, False, "concordance correlation coefficient"),
            Headline(f"Pearson, {name}", metrics.pearson, False, "correlation coefficient"),
            Headline(f"RMSE, {name}", metrics.rmse, False, "root mean square error; values are in [-1, 1]"),
            Headline(
                f"Sign agreement, {name}",
                metrics.sign_agreement,
                description="fraction of estimates with the correct sign (SAGR)",
            ),
        ]
    return headlines


def describe_coverage(evaluation: Evaluation) -> list[str]:
    """Sentences on which rows were evaluated, and which were left out."""
    coverage, expression = evaluation.coverage, evaluation.expression
    sentences = describe_training_rows(coverage)
    sentences.append(
        f"Evaluated {coverage.rows:,} of the {coverage.split_rows:,} rows of the split {coverage.split!r}."
    )
    if coverage.filter is not None:
        sentences.append(f"{coverage.filtered:,} rows are left out: their path does not match {coverage.filter!r}.")
    renamed = [f"{label} as {known}" for label, known in coverage.mapping.items() if known not in (None, label)]
    if renamed:
        sentences.append(f"Labels are mapped to the model's: {', '.join(renamed)}.")
    if coverage.unknown_labels:
        dropped = ", ".join(f"{label} ({rows:,})" for label, rows in coverage.unknown_labels.most_common())
        sentences.append(f"Rows with labels that the model does not have are not in the expression metrics: {dropped}.")
    if coverage.missing_classes:
        sentences.append(
            f"No evaluated row is labelled {', '.join(coverage.missing_classes)}. The model predicted these labels "
            f"{coverage.predicted_missing:,} times, each a mistake; macro averages cover the other classes."
        )
    for name, metrics in evaluation.affect.items():
        if metrics.unlabelled:
            sentences.append(f"{metrics.unlabelled:,} evaluated rows have no {name} and are not in its metrics.")
    if coverage.unreadable:
        path, reason = coverage.unreadable[0]
        sentences.append(f"{len(coverage.unreadable):,} images can't be read ({path}: {reason}).")
    if (review := evaluation.review) is not None and (rows := review.uncertain + review.confident):
        sentences.append(
            f"{review.uncertain:,} of {rows:,} labelled rows have a confidence below {review.min_confidence:g} and are "
            "listed in review.csv"
            + (f"; accuracy on the others is {review.hits / review.confident:.1%}." if review.confident else ".")
        )
    if expression is not None and expression.groups is not None:
        sentences.append(f"Intervals resample {expression.groups:,} groups (subjects or videos), not single rows.")
    return sentences


def describe_training_rows(coverage: Coverage) -> list[str]:
    """Sentences on evaluated rows that the training used: metrics on them are too good."""
    if coverage.training is None:
        return ["The model does not record its training data, so it may have been trained on these rows."]
    about = "" if coverage.training.exact else "About "
    sentences = []
    if coverage.training.trained:
        sentences.append(
            f"{about}{coverage.training.trained:,} of the {coverage.rows:,} evaluated rows were trained on "
            "(--allow-training-rows): the metrics are too good."
        )
    if coverage.training.chose_weights:
        sentences.append(
            f"{about}{coverage.training.chose_weights:,} of the {coverage.rows:,} evaluated rows are of the training's "
            "validation split, which chose the weights or their temperature: the metrics are optimistic."
        )
    return sentences


def class_table(evaluation: Evaluation) -> Table | None:
    """Metrics per class; None without an expression head."""
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


def subgroup_tables(evaluation: Evaluation) -> list[Table]:
    """For each attribute, the metrics of its groups, with the largest gaps below."""
    tables = []
    for found in evaluation.subgroups:
        rows = [
            [
                value,
                f"{each.rows:,}",
                *(format_estimate(metric) for metric in (each.accuracy, each.macro_f1, each.uar)),
            ]
            for value, each in found.groups.items()
        ]
        columns = (found.attribute, "rows", "accuracy", "macro F1", "UAR")
        tables.append(Table(f"By {found.attribute}", columns, rows, describe_gaps(found)))
    return tables


def describe_gaps(found: SubgroupMetrics) -> str:
    """Sentences on the largest gaps between the groups of an attribute."""
    gaps = {"Largest gap in accuracy": found.accuracy, "Equalised-odds difference": found.odds}
    sentences = [
        f"{name}: {format_estimate(gap.gap)}" + (f", in {gap.rate}" if gap.rate != "accuracy" else "")
        + f", between {gap.highest} and {gap.lowest}."
        for name, gap in gaps.items()
        if gap is not None
    ]  # fmt: skip
    sentences += [] if sentences else [f"No two groups have {MIN_ROWS} rows, so no gaps are computed."]
    sentences += [f"{found.unknown:,} rows have no {found.attribute}."] if found.unknown else []
    return " ".join(sentences)


def console_tables(evaluation: Evaluation) -> RenderableType:
    """The headline metrics and the metrics per class and subgroup, for the terminal."""
    top = RichTable("metric", "value", "95% interval", box=None, header_style="bold")
    for headline in headline_metrics(evaluation):
        value, _, interval = format_estimate(headline.estimate, headline.percent).partition(" ")
        top.add_row(headline.name, value, interval.strip("()"))
    if evaluation.expression is None:
        return top
    classes = RichTable(
        "class", "precision", "recall", "F1", "95% interval", "rows", "predicted", box=None, header_style="bold"
    )
    for each in evaluation.expression.classes:
        value, _, interval = format_estimate(each.f1).partition(" ")
        precision, recall = (format_estimate(estimate, interval=False) for estimate in (each.precision, each.recall))
        counts = f"{each.support:,}", f"{each.predicted:,}"
        classes.add_row(each.label, precision, recall, value, interval.strip("()"), *counts)
    subgroups: list[RenderableType] = []
    for shown in subgroup_tables(evaluation):
        table = RichTable(*shown.columns, box=None, header_style="bold")
        for row in shown.rows:
            table.add_row(*row)
        subgroups += ["", table, shown.caption]
    return Group(top, "", classes, *subgroups)
