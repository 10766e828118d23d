"""The plots of a sweep's report, in the style of `fer.evaluation.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from ray.tune.search.sample import Categorical, Domain, LogUniform

from fer.evaluation.plots import BLUE, GREY, GRID, INK, ORANGE, new_figure
from fer.tuning.trial_record import TrialRecord, ranked


def learning_curves(records: Sequence[TrialRecord]) -> Figure:
    """The score of each trial over its epochs. Trials that were stopped early end in a cross."""
    figure, (axes,) = new_figure(8.6, 4.2, 1)
    best = ranked(list(records))[0]
    for record in sorted(records, key=lambda record: record is best):
        if not record.history:
            continue
        epochs = [entry["trial_epoch"] for entry in record.history]
        scores = [entry["score"] for entry in record.history]
        stopped = record.state == "stopped"
        colour = ORANGE if record is best else GREY if stopped else BLUE
        axes.plot(
            epochs, scores, color=colour, linewidth=2.2 if record is best else 1.1, alpha=1 if record is best else 0.75
        )
        axes.plot(epochs[-1], scores[-1], "x" if stopped else "o", color=colour, ms=6 if stopped else 4)
    handles = [
        Line2D(
            [], [], color=ORANGE, linewidth=2.2, marker="x" if best.state == "stopped" else "o", ms=4, label=best.name
        ),
        Line2D([], [], color=BLUE, marker="o", ms=4, label="finished"),
        Line2D([], [], color=GREY, marker="x", label="stopped early"),
    ]
    axes.legend(handles=handles, frameon=False, labelcolor=INK, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set(xlabel="epoch", ylabel="score")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=GRID)
    return figure


def optimization_history(records: Sequence[TrialRecord]) -> Figure:
    """The best score of each trial by its number, and the best so far."""
    shown = [record for record in records if record.best]
    figure, (axes,) = new_figure(8.6, 3.6, 1)
    numbers, scores = [record.number for record in shown], [record.score or 0.0 for record in shown]
    axes.step(numbers, np.maximum.accumulate(scores), where="post", color=ORANGE, linewidth=2, label="best so far")
    for state, marker, colour in (("finished", "o", BLUE), ("stopped", "x", GREY), ("running", "o", GRID)):
        points = [(record.number, record.score) for record in shown if record.state == state]
        if points:
            label = "unfinished" if state == "running" else state
            axes.plot(*zip(*points, strict=True), marker, color=colour, ms=6, label=label)
    axes.set(xlabel="trial", ylabel="best score")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=GRID)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def importances(shares: Mapping[str, float]) -> Figure:
    """The share of the score's variance that each hyperparameter accounts for."""
    names = sorted(shares, key=lambda name: shares[name])
    figure, (axes,) = new_figure(6.4, 1.2 + 0.28 * len(names), 1)
    axes.barh(names, [shares[name] for name in names], color=BLUE, height=0.7)
    axes.set_xlabel("share of the variance")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GRID)
    return figure


def parallel_coordinates(records: Sequence[TrialRecord], params: Mapping[str, Domain]) -> Figure:
    """Each trial as a line through its values; darker is better, the best is orange."""
    shown = ranked(list(records))[::-1]
    figure, (axes,) = new_figure(max(8.6, 0.95 * len(params)), 4.6, 1)
    scores = np.array([record.score for record in shown], float)
    spread = np.ptp(scores) or 1.0
    shade = colormaps["Blues"]
    for record, score in zip(shown, scores, strict=True):
        heights = [_height(domain, record.point[name]) for name, domain in params.items()]
        best = record is shown[-1]
        colour = ORANGE if best else shade(0.15 + 0.75 * (score - scores.min()) / spread)
        axes.plot(range(len(params)), heights, color=colour, linewidth=2.4 if best else 1.2)
    for column, domain in enumerate(params.values()):
        axes.axvline(column, color=GRID, zorder=0)
        for height, text in _ticks(domain):
            style: dict[str, Any] = {"fontsize": 7.5, "color": INK, "ha": "left", "va": "center"}
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
            axes.text(column + 0.04, height, text, bbox=box, **style)
    axes.set_xticks(range(len(params)), [name.replace("_", " ") for name in params], rotation=35, ha="right")
    axes.set_yticks([])
    axes.set(ylim=(-0.05, 1.05), xlim=(-0.2, len(params) - 0.3))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def pareto_front(records: Sequence[TrialRecord], cost: str, front: Sequence[int]) -> Figure:
    """Score over cost; ``front`` are the numbers of the trials that no other one beats in both."""
    label = {"size": "million parameters", "latency": "milliseconds per image"}[cost]
    figure, (axes,) = new_figure(6.4, 4, 1)
    shown = [(record.best[cost], record.best["score"], record.number) for record in records if record.best]
    axes.plot([x for x, _, _ in shown], [score for _, score, _ in shown], "o", color=BLUE, ms=5)
    edge = sorted(each for each in shown if each[2] in front)
    axes.plot([x for x, _, _ in edge], [score for _, score, _ in edge], "o-", color=ORANGE, ms=7)
    for x, score, number in edge:
        axes.annotate(str(number), (x, score), textcoords="offset points", xytext=(6, -10), fontsize=8, color=INK)
    axes.set(xlabel=label, ylabel="best score")
    axes.grid(color=GRID)
    return figure


def _height(domain: Domain, value: Any) -> float:
    """Position of a value on its axis, from 0 to 1."""
    if isinstance(domain, Categorical):
        return domain.categories.index(value) / max(1, len(domain.categories) - 1)
    low, high = float(domain.lower), float(domain.upper)  # type: ignore[attr-defined]
    if isinstance(domain.get_sampler(), LogUniform):
        low, high, value = np.log(low), np.log(high), np.log(value)
    return float((value - low) / (high - low))


def _ticks(domain: Domain) -> list[tuple[float, str]]:
    if isinstance(domain, Categorical):
        return [(_height(domain, value), str(value)) for value in domain.categories]
    return [(0.0, f"{domain.lower:g}"), (1.0, f"{domain.upper:g}")]  # type: ignore[attr-defined]
