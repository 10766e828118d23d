"""Plots have no global state, and accept edge cases."""

from __future__ import annotations

import cv2
import numpy as np

from fer.evaluation import plots
from fer.evaluation.metrics import classification_metrics


def test_every_plot_renders_without_pyplot_state() -> None:
    from matplotlib import pyplot

    random = np.random.default_rng(0)
    true, probabilities = random.integers(0, 2, 50), random.dirichlet((1, 1, 1), 50).astype(np.float32)
    found = classification_metrics(("a", "b", "a class that no row has"), true, probabilities)
    points = random.uniform(-1, 1, (2, 50, 2))
    points[0, :10] = np.nan
    history = [{"epoch": 1, "train_loss": 2.0, "val_macro_f1": 0.2}, {"epoch": 2, "train_loss": 1.0}]
    figures = [
        plots.confusion_matrix(found.labels, found.confusion),
        plots.class_bars(found.classes),
        plots.reliability_diagram(found.reliability),
        plots.valence_arousal(*points),
        plots.training_curves(history),
    ]
    for figure in figures:
        assert figure is not None
        image = cv2.imdecode(np.frombuffer(plots.to_png(figure), np.uint8), cv2.IMREAD_COLOR)
        assert min(image.shape[:2]) > 300
        assert len(np.unique(image)) > 10
    assert pyplot.get_fignums() == []


def test_the_confusion_matrix_shows_percentages_and_counts() -> None:
    figure = plots.confusion_matrix(("a", "b"), [[3, 1], [0, 6]])
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert texts == {"75%\n3", "25%\n1", "0%\n0", "100%\n6"}
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["a (4)", "b (6)"]


def test_without_history_there_are_no_curves() -> None:
    assert plots.training_curves([]) is None
    assert plots.training_curves([{"epoch": 1, "lr": 0.1}]) is None
