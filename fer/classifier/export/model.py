"""Export after training: the best checkpoint becomes a model folder with a card, logged to MLflow and registered."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from ray.train import Checkpoint, Result

from fer.classifier.card import model_card
from fer.classifier.options import TrainConfig
from fer.classifier.spec import ModelSpec
from fer.models.folder import read_spec
from fer.registry import WEIGHTS
from fer.tracking import Run
from fer.training.checkpoint import read_state
from fer.training.export import publish_model
from fer.training.run import RunFolder


def export_model(
    config: TrainConfig, spec: ModelSpec, run: RunFolder, result: Result, tracking: Run
) -> tuple[str, dict[str, float], str | None]:
    """Write ``<run>/model`` and ``<run>/history.json``, log both, and register the model if ``--register-as`` is given.

    Returns the model folder, the metrics of its epoch and the registered version.
    """
    history = json.dumps(training_history(result), indent=2)
    run.write("history.json", history)
    best = result.get_best_checkpoint("score", mode="max")
    assert best is not None, "every epoch saves a checkpoint"
    with best.as_directory() as checkpoint:
        metrics = read_state(Path(checkpoint)).history[-1]
        training = {"run": run.name, "data": config.data, "metrics": metrics, **run.record["versions"]}
        temperature = metrics.get("val_temperature", 1.0)
        reference = read_spec(Path(checkpoint), ModelSpec).reference
        spec = spec.model_copy(update={"training": training, "temperature": temperature, "reference": reference})
        weights = Path(checkpoint) / WEIGHTS
        folder, version = publish_model(config, run, tracking, weights, spec, model_card(spec, metrics))
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "history.json").write_text(history)
        tracking.log_artifacts(Path(scratch) / "history.json")
    tracking.finish()
    return folder, metrics, version


def training_history(result: Result) -> list[dict[str, float]]:
    """The metrics of every epoch of the run, resumed attempts included."""
    assert isinstance(result.checkpoint, Checkpoint), "a finished run has a last checkpoint"
    with result.checkpoint.as_directory() as folder:
        return read_state(Path(folder)).history
