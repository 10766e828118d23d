"""Which epoch's weights are exported, with which metrics."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from ray.train import Checkpoint

from fer.classifier.export.model import export_model
from fer.classifier.options import TrainConfig
from fer.classifier.spec import ModelSpec
from fer.models.folder import read_spec
from fer.training.checkpoint import TrainerState, write_state
from fer.training.run import RunFolder


def test_the_metrics_are_those_of_the_exported_weights(make_classifier: Callable[..., Path], tmp_path: Path) -> None:
    """The first epoch was that of another run, from which this one was resumed; its weights are not here."""
    history: list[dict[str, Any]] = [
        {"epoch": epoch, "val_score": score, "val_accuracy": score, "train_loss": 1.0}
        for epoch, score in enumerate((0.70, 0.68, 0.66), 1)
    ]
    checkpoints = []
    for epoch in (2, 3):
        folder = make_classifier(tmp_path / f"checkpoint-{epoch}", seed=epoch)
        write_state(folder, TrainerState(epoch=epoch, history=history[:epoch]))
        checkpoints.append(Checkpoint.from_directory(str(folder)))
    best, last = checkpoints
    result: Any = SimpleNamespace(checkpoint=last, get_best_checkpoint=lambda *_, **__: best)
    config = TrainConfig(data="d", storage=str(tmp_path), name="resumed")
    spec = read_spec(tmp_path / "checkpoint-2", ModelSpec)
    folder, metrics, version = export_model(config, spec, RunFolder(config, "train", "x"), result, Mock())
    assert metrics == history[1]
    assert version is None
    assert json.loads((Path(folder) / "model.json").read_text())["training"]["metrics"] == history[1]
