"""After training: the best checkpoint becomes a model folder with a card, is logged once, and registered if asked."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import fsspec
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
    """Write ``<run>/model`` and ``<run>/history.json``, log both, register; the folder and the registered version."""
    history = training_history(result)
    run.write("history.json", json.dumps(history, indent=2))
    best = result.get_best_checkpoint("score", mode="max")
    assert best is not None, "every finished epoch left a checkpoint"
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / MODEL
        with best.as_directory() as folder:
            figures = _last_epoch(Path(folder))
            model.mkdir()
            (model / WEIGHTS).write_bytes((Path(folder) / WEIGHTS).read_bytes())
        origin = {"run": run.name, "data": config.data, "figures": figures, **run.record["versions"]}
        spec = spec.model_copy(update={"training": origin})
        (model / SPEC).write_text(json.dumps(spec.model_dump(), indent=2))
        (model / "README.md").write_text(model_card(spec, figures))
        filesystem, target = fsspec.url_to_fs(f"{run.root}/{MODEL}")
        filesystem.makedirs(target, exist_ok=True)
        for file in model.iterdir():
            filesystem.put_file(str(file), f"{target}/{file.name}")
        version = None
        if config.register_as:
            version = register(config, tracking.run_id, model, config.register_as, config.alias)
        else:
            tracking.log_artifacts(model, MODEL)
        (Path(scratch) / "history.json").write_text(json.dumps(history, indent=2))
        tracking.log_artifacts(Path(scratch) / "history.json")
    tracking.finish()
    return f"{run.root}/{MODEL}", version


def training_history(result: Result) -> list[dict[str, float]]:
    """One entry for each epoch of the whole run, over all its continuations."""
    assert isinstance(result.checkpoint, Checkpoint), "a finished run has a last checkpoint"
    with result.checkpoint.as_directory() as folder:
        return read_state(Path(folder)).history


def _last_epoch(folder: Path) -> dict[str, float]:
    return read_state(folder).history[-1]
