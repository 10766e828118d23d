"""The curves of a run, as a picture."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import fsspec
import numpy as np

from fer.tracking import Run
from fer.training.run import RunFolder

PANELS = {
    "Reward": "reward",
    "Length of completions (tokens)": "length",
    "KL divergence from the first model": "kl",
    "Entropy (nats a token)": "entropy",
    "All-equal groups (share)": "all_equal",
    "Seconds a step": "step_seconds",
}


def draw_curves(run: RunFolder, tracking: Run) -> None:
    """Write ``<run>/curves.png`` from the run's history, and log it."""
    with fsspec.open(f"{run.root}/history.json") as file:
        history = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "curves.png"
        draw({run.name: history}, picture)
        tracking.log_artifacts(Path(folder))
        filesystem, target = fsspec.url_to_fs(f"{run.root}/curves.png")
        filesystem.put_file(str(picture), target)


def draw(histories: dict[str, Sequence[dict[str, float]]], picture: Path) -> None:
    """Panels over the steps of one or several runs; of one run, the reward's parts as well."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axes = figure.subplots(2, 3).flat
    for axis, (title, name) in zip(axes, PANELS.items(), strict=True):
        for label, history in histories.items():
            steps = [entry["step"] for entry in history]
            values = [entry[name] for entry in history]
            [line] = axis.plot(steps, values, alpha=0.3)
            axis.plot(steps, smooth(values), color=line.get_color(), label=label)
            if name == "reward" and len(histories) == 1:
                for part in (key for key in history[0] if key.startswith("reward_") and key != "reward_std"):
                    axis.plot(steps, smooth([entry[part] for entry in history]), "--", label=part[len("reward_") :])
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(picture, dpi=110)


def smooth(values: Sequence[float], over: int = 20) -> np.ndarray:
    """The mean over the last ``over`` values at each place."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - over)
    return (sums[ends] - sums[starts]) / (ends - starts)
