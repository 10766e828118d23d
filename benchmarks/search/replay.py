"""Searchers on recorded learning curves: the best score against the budget.

    python -m benchmarks.search.replay

A searcher proposes a point; the nearest recorded configuration that it has not used answers with its learning curve,
and the searcher learns its score. So a search of hours takes seconds, and 100 seeds of each searcher can be compared.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from benchmarks.search.table import SPACES, Table, read_table
from fer.options import Options, parse

if TYPE_CHECKING:
    import optuna

    from benchmarks.search.searchers import Searcher

MAJORITY = 0.25
"""About the accuracy of always answering "happy": where the hypervolume starts."""


class ReplayOptions(Options):
    """Compare searchers on recorded learning curves."""

    space: Literal["classifier_cpu", "fusion"] = Field("classifier_cpu", description="Whose recorded curves")
    searchers: list[str] = Field([], description="Names of searchers to replay; none: all")
    seeds: int = Field(100, ge=1, description="Replays of each searcher")
    trials: int = Field(16, ge=1, description="Budget: so many trials that are not stopped")
    objectives: int = Field(1, ge=1, le=2, description="2: accuracy and latency, compared by hypervolume")
    plot: str | None = Field(None, description="Write a plot of the best score against the budget to this file")
    out: str = Field(
        "build/search", description="Folder of the curves; a searcher whose curves are there is not replayed"
    )


def main(options: ReplayOptions) -> None:
    import optuna

    from benchmarks.search.searchers import SEARCHERS, STAGED, TWO_OBJECTIVES

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recorded = SPACES[options.space]
    if not recorded.file.exists():
        sys.exit(f"{recorded.file} is not recorded yet: see benchmarks/search/record_fusion.py")
    table = Table(read_table(recorded.file)[1:], recorded)  # without the default, which is no random one
    budget = options.trials * sum(table.cost)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    known = TWO_OBJECTIVES if options.objectives == 2 else STAGED if recorded.in_stages else SEARCHERS
    curves = {}
    for name in options.searchers or known:
        settings = (name, options.space, options.objectives, options.seeds, options.trials, len(table.rows))
        file = out / f"{'-'.join(map(str, settings))}.npy"
        if not file.exists():
            started = time.monotonic()
            replayed = [replay(known[name], table, budget, seed, options.objectives) for seed in range(options.seeds)]
            np.save(file, np.stack(replayed))
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        curves[name] = np.load(file)
    print(f"{len(table.rows)} configurations, the best {max(scores[-1] for scores in table.scores):.4f}")
    print(summary(curves))
    if options.plot:
        draw(curves, table, Path(options.plot))


def replay(searcher: Searcher, table: Table, budget: int, seed: int, objectives: int = 1) -> np.ndarray:
    """The best score, or the hypervolume, after each unit of the budget (budget,)."""
    import optuna

    from benchmarks.search.searchers import Stopping, make_pruner

    epochs = len(table.cost)
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        directions=["maximize", "minimize"][:objectives],
        sampler=searcher.sampler(seed),
        pruner=make_pruner(searcher, table.space, epochs),
        storage=storage,
        study_name=str(seed),
    )
    stopping = Stopping(searcher, table.space, epochs)
    unused = list(range(len(table.rows)))
    found: list[tuple[float, float]] = []
    curve: list[float] = []
    while len(curve) < budget and unused:
        suggested = study.ask(table.distributions)
        number = table.nearest(suggested.params, unused)
        unused.remove(number)
        move(suggested, storage, table, number)
        trial, stopped = stopping.starts(suggested.number), False
        found.append((0.0, table.latency[number]))
        for epoch, (score, cost) in enumerate(zip(table.scores[number], table.cost, strict=True), 1):
            curve += curve[-1:] * (cost - 1) or [0.0] * (cost - 1)
            found[-1] = score, table.latency[number]
            curve.append(max(each for each, _ in found) if objectives == 1 else hypervolume(found, max(table.latency)))
            if objectives == 1:
                suggested.report(score, epoch)
            stopped = stopping.stops(trial, suggested, epoch, score)
            if stopped or len(curve) >= budget:
                break
        state = searcher.stopped_as if stopped else optuna.trial.TrialState.COMPLETE
        values = None if state == optuna.trial.TrialState.PRUNED else [score, table.latency[number]][:objectives]
        study.tell(suggested, values, state)
    return np.array(curve + [curve[-1]] * (budget - len(curve)))[:budget]


def move(suggested: optuna.Trial, storage: optuna.storages.BaseStorage, table: Table, number: int) -> None:
    """Give a suggested trial the values of the configuration that answers for it: what the sampler learns from."""
    for name, distribution in table.distributions.items():
        value = distribution.to_internal_repr(table.rows[number].point[name])
        storage.set_trial_param(suggested._trial_id, name, value, distribution)


def hypervolume(found: list[tuple[float, float]], slowest: float) -> float:
    """The share of the rectangle from (`MAJORITY`, ``slowest``) to (1, 0) in which a score and latency of ``found`` is
    at least as good."""
    volume, highest = 0.0, MAJORITY
    for score, latency in sorted(found, key=lambda each: (each[1], -each[0])):
        volume += max(0.0, score - highest) * (slowest - latency)
        highest = max(highest, score)
    return volume / (1 - MAJORITY) / slowest


def reached(curves: np.ndarray, score: float) -> int | None:
    """The budget after which the median of the curves (seeds, budget) is ``score``; None if it never is."""
    there = np.flatnonzero(np.median(curves, axis=0) >= score)
    return int(there[0]) + 1 if len(there) else None


def summary(curves: Mapping[str, np.ndarray]) -> str:
    """A table: medians and quartiles at a third of the budget and at its end; when random search's end is reached."""
    goal = float(np.median(curves["random"][:, -1]))
    lines = [
        "| searcher | at a third of the budget | at its end | budget to random search's end | share |",
        "|---|---|---|---|---|",
    ]
    for name, each in curves.items():
        third, end = (np.quantile(each[:, place], [0.5, 0.25, 0.75]) for place in (each.shape[1] // 3 - 1, -1))
        cells = [f"{median:.4f} ({low:.4f} to {high:.4f})" for median, low, high in (third, end)]
        when = reached(each, goal)
        cells += ["–", "–"] if when is None else [str(when), f"{when / each.shape[1]:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(curves: Mapping[str, np.ndarray], table: Table, path: Path) -> None:
    """Median and quartiles of the best score against the budget."""
    from matplotlib import colormaps

    from fer.evaluation.plots import GREY, GRID, INK, new_figure, to_png

    figure, (axes,) = new_figure(8.6, 4.4, 1)
    for place, (name, each) in enumerate(curves.items()):
        low, median, high = np.quantile(each, [0.25, 0.5, 0.75], axis=0)
        epochs = np.arange(1, len(median) + 1)
        colour = GREY if name == "random" else colormaps["tab10"](place)
        axes.plot(epochs, median, color=colour, linewidth=2, label=name)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.12, linewidth=0)
    goal = float(np.median(curves["random"][:, -1]))
    axes.axhline(goal, color=INK, linewidth=0.8, linestyle="--")
    axes.axvline(curves["random"].shape[1] / 3, color=INK, linewidth=0.8, linestyle=":")
    unit, score = ("epochs", "accuracy") if set(table.cost) == {1} else (f"1/{sum(table.cost)} of a trial", "kappa")
    axes.set(xlabel=f"budget of all trials, in {unit}", ylabel=f"best validation {score}", ylim=(goal - 0.08, None))
    axes.grid(color=GRID)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    path.write_bytes(to_png(figure))


if __name__ == "__main__":
    main(parse(ReplayOptions, sys.argv[1:], "benchmark"))
