"""Export of a trained model: a model folder with its spec and card, stored with the run and in MLflow."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from pydantic import BaseModel

from fer.registry import MODEL, SPEC, WEIGHTS
from fer.tracking import Run
from fer.training.options import ExperimentOptions
from fer.training.run import RunFolder


def publish_model(
    options: ExperimentOptions, run: RunFolder, tracking: Run, weights: Path, spec: BaseModel, card: str
) -> tuple[str, str | None]:
    """Write ``<run>/model`` from a weights file, log it to MLflow, and register it if ``--register-as`` is given.

    Returns the model folder and the registered version; None if there is none, or MLflow is down.
    """
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / MODEL
        model.mkdir()
        shutil.copy(weights, model / WEIGHTS)
        (model / SPEC).write_text(json.dumps(spec.model_dump(), indent=2))
        (model / "README.md").write_text(card)
        folder = run.upload(model, MODEL)
        if options.register_as:
            return folder, tracking.register(model, folder, options.register_as, options.alias)
        tracking.log_artifacts(model, MODEL, kept=folder)
        return folder, None
