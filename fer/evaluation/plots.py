"""Plots of the reports, as matplotlib figures without global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from fer.evaluation.classification import CalibrationBin, ClassMetrics

BLUE, ORANGE, GREEN, GREY = "#3b6ea5", "#d08345", "#5d9b7c", "#8a8f98"
INK, GRID = "#30343b", "#e4e7eb"


def confusion_matrix(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """Counts (K, K), true classes in rows; colours and percentages are fractions of the row."""
    table = np.asarray(counts)
    support = table.sum(axis=1, keepdims=True)
    share = table / np.maximum(support, 1)
    side = 2.2 + 0.78 * len(labels)
    figure, (axes,) = new_figure(side + 0.6, side, 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(
        range(len(labels)), [f"{label} ({rows:,})" for label, rows in zip(labels, support[:, 0], strict=True)]
    )
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (rows)")
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(labels) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(labels) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    for row, column in np.ndindex(*table.shape):
        if support[row, 0]:
            colour = "white" if share[row, column] > 0.55 else INK if table[row, column] else GREY
            text = f"{share[row, column]:.0%}\n{table[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, format=PercentFormatter(1))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, colors=INK)
    return figure


def heatmap(rows: Sequence[str], columns: Sequence[str], shares: Sequence[Sequence[float]]) -> Figure:
    """Fractions (R, C) in [0, 1] as colours and percentages; NaN is left empty."""
    table = np.asarray(shares, float)
    figure, (axes,) = new_figure(2.6 + 1.0 * len(columns), 1.4 + 0.45 * len(rows), 1)
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for row, column in np.argwhere(~np.isnan(table)):
        share = table[row, column]
        colour = "white" if share > 0.55 else INK
        axes.text(column, row, f"{share:.1%}", ha="center", va="center", color=colour, fontsize=8)
    return figure


def class_bars(classes: Sequence[ClassMetrics]) -> Figure:
    """Precision, recall and F1 of each class that the data has, with 95% intervals."""
    shown = [each for each in classes if each.support]
    figure, (axes,) = new_figure(1.8 + 1.1 * len(shown), 4, 1)
    for offset, name, colour in ((-0.27, "precision", BLUE), (0.0, "recall", ORANGE), (0.27, "f1", GREEN)):
        estimates = [getattr(each, name) for each in shown]
        values, low, high = np.array([(each.value, each.low, each.high) for each in estimates]).T
        intervals = np.maximum([values - low, high - values], 0)
        error = {"elinewidth": 1, "ecolor": INK, "capsize": 2}
        label = "F1" if name == "f1" else name
        axes.bar(
            np.arange(len(shown)) + offset, values, 0.25, yerr=intervals, color=colour, error_kw=error, label=label
        )
    axes.set_xticks(range(len(shown)), [f"{each.label}\n{each.support:,} rows" for each in shown])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", color=GRID)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, labelcolor=INK)
    return figure


def reliability_diagram(bins: Sequence[CalibrationBin]) -> Figure:
    """Accuracy by confidence, above a histogram of the confidence."""
    figure, (axes, below) = new_figure(5, 5.4, 2, height_ratios=(4, 1), sharex=True)
    middle = [(each.low + each.high) / 2 for each in bins]
    width = [each.high - each.low for each in bins]
    axes.bar(middle, [each.accuracy for each in bins], width, color=BLUE, edgecolor="white", label="accuracy")
    confidence = [each.confidence for each in bins]
    edges = [each.low for each in bins], [each.high for each in bins]
    axes.hlines(confidence, *edges, color=ORANGE, linewidth=3, label="mean confidence")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1)
    axes.legend(loc="upper left", frameon=False, labelcolor=INK, fontsize=9)
    axes.grid(axis="y", color=GRID)
    below.bar(middle, [each.rows for each in bins], width, color=GREY, edgecolor="white")
    below.set_ylabel("rows")
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    below.set_xlabel("confidence")
    below.set_xlim(0, 1)
    for each, axis in ((axes, axes.yaxis), (below, below.xaxis)):
        axis.set_major_formatter(PercentFormatter(1))
        each.set_axisbelow(True)
    return figure


def training_curves(history: Sequence[Mapping[str, float]]) -> Figure | None:
    """Losses and scores by epoch, of the entries of `history.json`; None if they have neither."""
    names = list(dict.fromkeys(name for entry in history for name in entry))
    losses = [name for name in names if name.endswith("loss")]
    scores = [name for name in names if name.endswith(("accuracy", "f1", "uar", "ccc"))]
    panels = [(title, series) for title, series in (("loss", losses), ("score", scores)) if series]
    if not panels:
        return None
    figure, all_axes = new_figure(4.6 * len(panels), 3.4, len(panels), across=True)
    for axes, (title, series) in zip(all_axes, panels, strict=True):
        for name, colour in zip(series, (BLUE, ORANGE, GREEN, GREY, "#7b6aa8", "#b0566b"), strict=False):
            points = [(entry["epoch"], entry[name]) for entry in history if entry.get(name) is not None]
            marker = "o" if len(points) < 15 else None
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, ms=3, label=_legend(name))
        axes.set_xlabel("epoch")
        axes.set_ylabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=GRID)
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def valence_arousal(true: np.ndarray, predicted: np.ndarray) -> Figure:
    """Scatter plots of estimates by true values, both (N, 2) in [-1, 1]; rows with NaN in ``true`` are left out."""
    figure, all_axes = new_figure(8.6, 4.3, 2, across=True)
    for column, (axes, name) in enumerate(zip(all_axes, ("valence", "arousal"), strict=True)):
        known = ~np.isnan(true[:, column])
        alpha = float(np.clip(600 / max(known.sum(), 1), 0.1, 0.7))
        axes.scatter(true[known, column], predicted[known, column], s=12, color=BLUE, alpha=alpha, linewidths=0)
        axes.plot([-1, 1], [-1, 1], color=GREY, linestyle="--", linewidth=1)
        axes.axhline(0, color=GRID, zorder=0)
        axes.axvline(0, color=GRID, zorder=0)
        axes.set(
            xlim=(-1.04, 1.04), ylim=(-1.04, 1.04), aspect="equal", xlabel=f"true {name}", ylabel=f"estimated {name}"
        )
    return figure


def to_png(figure: Figure, dpi: int = 130) -> bytes:
    """The figure as an encoded PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def new_figure(
    width: float,
    height: float,
    panels: int,
    across: bool = False,
    height_ratios: Sequence[float] | None = None,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure in the style of the reports, with its axes: panels in one column, or ``across`` in one row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    rows, columns = (1, panels) if across else (panels, 1)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey, height_ratios=height_ratios)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GRID)
        axes.tick_params(colors=INK, color=GRID, labelsize=9)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        axes.set_axisbelow(True)
    return figure, list(grid.flat)


def _legend(name: str) -> str:
    return name.replace("_", " ").replace("val ", "validation ").replace("f1", "F1").replace("ccc", "CCC")
