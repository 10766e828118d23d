"""Export after training: the final weights become a model folder with a card, logged to MLflow and registered."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from ray.train import Result

from fer.registry import MODEL, SPEC
from fer.tracking import Run
from fer.training.checkpoint import read_state
from fer.training.run import RunFolder
from fer.vlm.card import model_card
from fer.vlm.options import VlmTrainingOptions


def export_model(
    config: VlmTrainingOptions, run: RunFolder, result: Result, tracking: Run, last: int = 1
) -> tuple[str, dict[str, float], str | None]:
    """Write ``<run>/model`` and ``<run>/history.json``, and register the model if ``--register-as`` is given.

    Returns the model folder, the metrics (means of the last ``last`` entries of the history) and the registered
    version. The card and `model.json` are always logged to MLflow; the weights, being large, only when registered.
    """
    assert result.checkpoint is not None, "a finished run has a last checkpoint"
    with tempfile.TemporaryDirectory() as scratch, result.checkpoint.as_directory() as checkpoint:
        model = Path(scratch) / MODEL
        shutil.copytree(Path(checkpoint) / MODEL, model)
        history = read_state(Path(checkpoint)).history
        entries = history[-last:]
        metrics = {name: fmean(entry[name] for entry in entries) for name in (entries or [{}])[-1] if name != "step"}
        write_model_card(
            model, base=config.model, config=config.model_dump(mode="json"), run=run.record, metrics=metrics
        )
        run.write("history.json", json.dumps(history, indent=2))
        folder = run.upload(model, MODEL)
        version = None
        if config.register_as:
            version = tracking.register(model, folder, config.register_as, config.alias)
        else:
            metadata = Path(scratch) / "metadata"
            metadata.mkdir()
            for name in (SPEC, "README.md"):
                shutil.copy(model / name, metadata / name)
            tracking.log_artifacts(metadata, MODEL)
    tracking.finish()
    return folder, metrics, version


def write_model_card(
    model: Path, *, base: str, config: dict[str, Any], run: dict[str, Any], metrics: dict[str, float]
) -> None:
    """Write `model.json` and the model card (`README.md`) into a model folder."""
    adapter = (model / "adapter_config.json").is_file()
    spec = {
        "kind": "vlm-adapter" if adapter else "vlm",
        "base": base,
        "training": {"run": run.get("name"), "config": config, "metrics": metrics, "versions": run.get("versions")},
    }
    (model / SPEC).write_text(json.dumps(spec, indent=2))
    (model / "README.md").write_text(model_card(spec))
