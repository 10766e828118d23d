"""Plots draw without touching matplotlib's global state, also at the edges of what there is to draw."""

from __future__ import annotations

import cv2
import numpy as np

from fer.evaluation import plots
from fer.evaluation.metrics import classification_metrics


def test_every_plot_is_a_picture_and_none_is_left_open() -> None:
    from matplotlib import pyplot

    random = np.random.default_rng(0)
    true, probabilities = random.integers(0, 2, 50), random.dirichlet((1, 1, 1), 50).astype(np.float32)
    found = classification_metrics(("a", "b", "a class that no row has"), true, probabilities)
    points = random.uniform(-1, 1, (2, 50, 2))
    points[0, :10] = np.nan
    history = [{"epoch": 1, "train_loss": 2.0, "val_macro_f1": 0.2}, {"epoch": 2, "train_loss": 1.0}]
    drawings = [
        plots.confusion_matrix(found.labels, found.confusion),
        plots.class_bars(found.classes),
        plots.reliability_diagram(found.reliability),
        plots.valence_arousal(*points),
        plots.training_curves(history),
    ]
    for drawing in drawings:
        assert drawing is not None
        picture = cv2.imdecode(np.frombuffer(plots.to_png(drawing), np.uint8), cv2.IMREAD_COLOR)
        assert min(picture.shape[:2]) > 300
        assert len(np.unique(picture)) > 10
    assert pyplot.get_fignums() == []


def test_the_confusion_matrix_says_shares_and_counts() -> None:
    drawing = plots.confusion_matrix(("a", "b"), [[3, 1], [0, 6]])
    written = {text.get_text() for text in drawing.axes[0].texts}
    assert written == {"75%\n3", "25%\n1", "0%\n0", "100%\n6"}
    assert [text.get_text() for text in drawing.axes[0].get_yticklabels()] == ["a (4)", "b (6)"]


def test_no_history_no_curves() -> None:
    assert plots.training_curves([]) is None
    assert plots.training_curves([{"epoch": 1, "lr": 0.1}]) is None
