"""Plots of a run's training curves."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import fsspec
import numpy as np

from fer.tracking import Run
from fer.training.run import RunFolder

FILE_NAME = "training_curves.png"
PANELS = {
    "reward/mean": "Reward",
    "completions/mean_length": "Completion length (tokens)",
    "kl": "KL divergence from the reference model",
    "entropy": "Entropy (nats per token)",
    "frac_zero_std": "Groups with zero reward std (fraction)",
    "time/step": "Step time (s)",
}


def plot_run(run: RunFolder, tracking: Run) -> str:
    """Plot the run's history to ``<run>/training_curves.png``, and log it to MLflow; its path."""
    with fsspec.open(f"{run.root}/history.json") as file:
        history = json.load(file)
    path = f"{run.root}/{FILE_NAME}"
    with tempfile.TemporaryDirectory() as folder:
        plot_histories({run.name: history}, Path(folder) / FILE_NAME)
        tracking.log_artifacts(Path(folder))
        filesystem, target = fsspec.url_to_fs(path)
        filesystem.put_file(f"{folder}/{FILE_NAME}", target)
    return path


def plot_histories(histories: dict[str, Sequence[dict[str, float]]], file: Path) -> None:
    """Plot metrics over steps, of one or several runs; for a single run also the parts of the reward."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axes = figure.subplots(2, 3).flat
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        for label, history in histories.items():
            steps = [entry["step"] for entry in history]
            values = [entry[name] for entry in history]
            [line] = axis.plot(steps, values, alpha=0.3)
            axis.plot(steps, moving_average(values), color=line.get_color(), label=label)
            if name == "reward/mean" and len(histories) == 1:
                for part in (key for key in history[0] if key.startswith("reward/") and key.count("/") == 2):
                    values = [entry[part] for entry in history]
                    axis.plot(steps, moving_average(values), "--", label=part.split("/")[1])
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(file, dpi=110)


def moving_average(values: Sequence[float], window: int = 20) -> np.ndarray:
    """Mean of the last ``window`` values at each position; of fewer at the start."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)
