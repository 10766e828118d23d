"""Plots of a training run and of a scored video. Each function returns a new matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fer.dynamics.scores import SCORES, SHORT_DISCLAIMER
from fer.dynamics.stage_folders import StageHistory
from fer.evaluation.plots import BLUE, GREY, GRID, INK, ORANGE, new_figure

COLOURS = dict(zip(SCORES, (BLUE, ORANGE), strict=True))


def training_curves(histories: Mapping[str, StageHistory]) -> Figure:
    """All stages in sequence: losses above, accuracies of the rounded validation scores below."""
    figure, (losses, accuracies) = new_figure(9, 5, 2, sharex=True)
    first = 0
    for stage, history in histories.items():
        epochs = first + np.arange(1, len(history) + 1)
        for name, colour in (("train_loss", GREY), ("val_loss", BLUE)):
            losses.plot(epochs, [entry[name] for entry in history], color=colour, marker=".", label=_label(name, first))
        for score, colour in COLOURS.items():
            values = [entry[f"val_{score}_accuracy"] for entry in history]
            accuracies.plot(epochs, values, color=colour, marker=".", label=_label(f"{score}_accuracy", first))
        for axes in (losses, accuracies):
            axes.axvline(first + 0.5, color=GRID, zorder=0)
        losses.annotate(
            f"stage {stage}", (first + 0.6, 1.02), xycoords=("data", "axes fraction"), color=INK, fontsize=9
        )
        first += len(history)
    losses.set(ylabel="loss", yscale="log")
    accuracies.set(xlabel="epoch, all stages", ylabel="validation accuracy", ylim=(0, 1), xlim=(0.4, first + 0.6))
    accuracies.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (losses, accuracies):
        axes.grid(axis="y", color=GRID)
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def stage_losses(histories: Mapping[str, StageHistory]) -> Figure:
    """Training and validation loss, a panel per stage, with a shared scale."""
    figure, panels = new_figure(2.6 * len(histories), 3.2, len(histories), across=True, sharey=True)
    for axes, (stage, history) in zip(panels, histories.items(), strict=True):
        epochs = [entry["epoch"] for entry in history]
        for name, colour in (("train_loss", GREY), ("val_loss", BLUE)):
            marker = "o" if len(epochs) < 15 else None
            values = [entry[name] for entry in history]
            axes.plot(epochs, values, color=colour, marker=marker, ms=3, label=name.replace("_", " "))
        axes.grid(axis="y", color=GRID)
        axes.set_title(f"stage {stage}", color=INK, fontsize=10)
        axes.set(xlabel="epoch", yscale="log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("loss")
    panels[0].legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def agreement(true: np.ndarray, estimated: np.ndarray) -> Figure:
    """Estimates (N, 2) over true levels (N, 2): a dot per frame, and the mean of each level."""
    figure, panels = new_figure(8, 3.8, len(SCORES), across=True)
    for column, (axes, (score, top)) in enumerate(zip(panels, SCORES.items(), strict=True)):
        jitter = np.random.default_rng(0).uniform(-0.18, 0.18, len(true))
        axes.scatter(true[:, column] + jitter, estimated[:, column], s=12, color=BLUE, alpha=0.4, linewidths=0)
        axes.grid(axis="y", color=GRID)
        known = np.unique(true[:, column])
        means = [estimated[true[:, column] == level, column].mean() for level in known]
        axes.scatter(known, means, marker="D", s=36, color=ORANGE, label="mean")
        axes.plot([0, top], [0, top], color=GREY, linestyle="--", linewidth=1)
        axes.set(xlabel=f"true {score}", ylabel=f"estimated {score}", xlim=(-0.5, top + 0.5), ylim=(-0.3, top + 0.3))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def score_curve(seconds: Sequence[float], scores: np.ndarray, title: str) -> Figure:
    """Scores (N, 2) of a video's frames over time; NaN, where no face was found, leaves a gap."""
    figure, (axes,) = new_figure(8, 3.4, 1)
    axes.grid(axis="y", color=GRID)
    for column, (score, colour) in enumerate(COLOURS.items()):
        axes.plot(seconds, scores[:, column], color=colour, label=f"{score} (0 to {SCORES[score]})")
    axes.set(xlabel="seconds", ylabel="score", ylim=(-0.1, max(SCORES.values()) + 0.1))
    axes.set_title(f"{title} ({SHORT_DISCLAIMER})", color=INK, fontsize=10)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def _label(name: str, first_epoch: int) -> str | None:
    """A legend entry for the lines of the first stage only: those of the others look the same."""
    return None if first_epoch else name.replace("_", " ")
