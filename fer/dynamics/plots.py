"""The pictures of a training and of a scored video. Each function returns a matplotlib figure of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fer.dynamics.scores import NOTE, SCORES
from fer.dynamics.stages import History
from fer.evaluation.plots import BLUE, GREY, GRID, INK, ORANGE

COLOURS = dict(zip(SCORES, (BLUE, ORANGE), strict=True))


def training_curves(histories: Mapping[str, History]) -> Figure:
    """All stages one after the other: losses above, accuracies of the rounded validation scores below."""
    figure, (losses, accuracies) = _panels(2, width=9, sharex=True)
    begin = 0
    for stage, history in histories.items():
        epochs = begin + np.arange(1, len(history) + 1)
        for name, colour in (("train_loss", GREY), ("val_loss", BLUE)):
            losses.plot(epochs, [entry[name] for entry in history], color=colour, marker=".", label=_once(name, begin))
        for score, colour in COLOURS.items():
            shares = [entry[f"val_{score}_accuracy"] for entry in history]
            accuracies.plot(epochs, shares, color=colour, marker=".", label=_once(f"{score}_accuracy", begin))
        for axes in (losses, accuracies):
            axes.axvline(begin + 0.5, color=GRID, zorder=0)
        losses.annotate(
            f"stage {stage}", (begin + 0.6, 1.02), xycoords=("data", "axes fraction"), color=INK, fontsize=9
        )
        begin += len(history)
    losses.set(ylabel="loss", yscale="log")
    accuracies.set(xlabel="epoch, over all stages", ylabel="validation accuracy", ylim=(0, 1), xlim=(0.4, begin + 0.6))
    accuracies.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (losses, accuracies):
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def stage_losses(histories: Mapping[str, History]) -> Figure:
    """A panel for each stage, all on one scale: its loss on the training and on the validation part."""
    figure, panels = _panels(len(histories), across=True, width=2.6 * len(histories), height=3.2, sharey=True)
    for axes, (stage, history) in zip(panels, histories.items(), strict=True):
        epochs = [entry["epoch"] for entry in history]
        for name, colour in (("train_loss", GREY), ("val_loss", BLUE)):
            marker = "o" if len(epochs) < 15 else None
            values = [entry[name] for entry in history]
            axes.plot(epochs, values, color=colour, marker=marker, ms=3, label=name.replace("_", " "))
        axes.set_title(f"stage {stage}", color=INK, fontsize=10)
        axes.set(xlabel="epoch", yscale="log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("loss")
    panels[0].legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def agreement(true: np.ndarray, estimated: np.ndarray) -> Figure:
    """True levels (N, 2) against estimates (N, 2): a dot a frame, and the mean of each level."""
    figure, panels = _panels(len(SCORES), across=True, width=8, height=3.8)
    for column, (axes, (score, top)) in enumerate(zip(panels, SCORES.items(), strict=True)):
        jitter = np.random.default_rng(0).uniform(-0.18, 0.18, len(true))
        axes.scatter(true[:, column] + jitter, estimated[:, column], s=12, color=BLUE, alpha=0.4, linewidths=0)
        known = np.unique(true[:, column])
        means = [estimated[true[:, column] == level, column].mean() for level in known]
        axes.scatter(known, means, marker="D", s=36, color=ORANGE, label="mean")
        axes.plot([0, top], [0, top], color=GREY, linestyle="--", linewidth=1)
        axes.set(xlabel=f"true {score}", ylabel=f"estimated {score}", xlim=(-0.5, top + 0.5), ylim=(-0.3, top + 0.3))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def curve(seconds: Sequence[float], scores: np.ndarray, title: str) -> Figure:
    """Scores (N, 2) of a video's frames over time; NaN where there was no face leaves a gap."""
    figure, (axes,) = _panels(1, width=8, height=3.4)
    for column, (score, colour) in enumerate(COLOURS.items()):
        axes.plot(seconds, scores[:, column], color=colour, label=f"{score} (0 to {SCORES[score]})")
    axes.set(xlabel="seconds", ylabel="score", ylim=(-0.1, max(SCORES.values()) + 0.1))
    axes.set_title(f"{title} ({NOTE})", color=INK, fontsize=10)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def _panels(
    count: int, across: bool = False, width: float = 6, height: float = 5, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(*((1, count) if across else (count, 1)), squeeze=False, sharex=sharex, sharey=sharey)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GRID)
        axes.tick_params(colors=INK, color=GRID, labelsize=9)
        axes.grid(axis="y", color=GRID)
        axes.set_axisbelow(True)
    return figure, list(grid.flat)


def _once(name: str, begin: int) -> str | None:
    """A label for the first stage's line only: the others look the same."""
    return None if begin else name.replace("_", " ")
