"""Export after training: the best checkpoint becomes a model folder with a card, logged to MLflow and registered."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from ray.train import Checkpoint, Result

from fer.classifier.card import model_card
from fer.classifier.model import ModelSpec
from fer.classifier.options import TrainConfig
from fer.models.folder import WEIGHTS
from fer.tracking import MODEL, SPEC, Run, register
from fer.training.checkpoint import read_state
from fer.training.run import RunFolder


def export_model(
    config: TrainConfig, spec: ModelSpec, run: RunFolder, result: Result, tracking: Run
) -> tuple[str, str | None]:
    """Write ``<run>/model`` and ``<run>/history.json``, log both, and register the model if ``--register-as`` is given.

    Returns the model folder and the registered version.
    """
    history = json.dumps(training_history(result), indent=2)
    run.write("history.json", history)
    best = result.get_best_checkpoint("score", mode="max")
    assert best is not None, "every epoch saves a checkpoint"
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / MODEL
        model.mkdir()
        with best.as_directory() as checkpoint:
            shutil.copy(Path(checkpoint) / WEIGHTS, model)
            metrics = read_state(Path(checkpoint)).history[-1]
        training = {"run": run.name, "data": config.data, "metrics": metrics, **run.record["versions"]}
        spec = spec.model_copy(update={"training": training})
        (model / SPEC).write_text(json.dumps(spec.model_dump(), indent=2))
        (model / "README.md").write_text(model_card(spec, metrics))
        folder = run.upload(model, MODEL)
        version = None
        if config.register_as:
            version = register(config, tracking.run_id, model, config.register_as, config.alias)
        else:
            tracking.log_artifacts(model, MODEL)
        (Path(scratch) / "history.json").write_text(history)
        tracking.log_artifacts(Path(scratch) / "history.json")
    tracking.finish()
    return folder, version


def training_history(result: Result) -> list[dict[str, float]]:
    """The metrics of every epoch of the run, resumed attempts included."""
    assert isinstance(result.checkpoint, Checkpoint), "a finished run has a last checkpoint"
    with result.checkpoint.as_directory() as folder:
        return read_state(Path(folder)).history
