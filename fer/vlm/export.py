"""After training: the last weights become a model folder with a card, and are logged and registered if asked."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from ray.train import Result

from fer.tracking import MODEL, SPEC, Run, register
from fer.training.checkpoint import read_state
from fer.training.run import RunFolder
from fer.vlm.card import model_card
from fer.vlm.options import VlmTrainingOptions


def export_model(
    config: VlmTrainingOptions, run: RunFolder, result: Result, tracking: Run, last: int = 1
) -> tuple[str, dict[str, float], str | None]:
    """Write ``<run>/model`` and ``<run>/history.json``, register; the folder, figures and the registered version.

    The figures are the means of the ``last`` entries of the history.
    Weights are large: they go to MLflow only when they are registered, the card and the settings always.
    """
    assert result.checkpoint is not None, "a finished run has a last checkpoint"
    with tempfile.TemporaryDirectory() as scratch, result.checkpoint.as_directory() as checkpoint:
        model = Path(scratch) / MODEL
        shutil.copytree(Path(checkpoint) / MODEL, model)
        history = read_state(Path(checkpoint)).history
        ends = history[-last:]
        figures = {name: fmean(entry[name] for entry in ends) for name in (ends or [{}])[-1] if name != "step"}
        write_model_card(
            model, base=config.model, config=config.model_dump(mode="json"), run=run.record, figures=figures
        )
        run.write("history.json", json.dumps(history, indent=2))
        run.upload(model, MODEL)
        version = None
        if config.register_as:
            version = register(config, tracking.run_id, model, config.register_as, config.alias)
        else:
            facts = Path(scratch) / "facts"
            facts.mkdir()
            for name in (SPEC, "README.md"):
                shutil.copy(model / name, facts / name)
            tracking.log_artifacts(facts, MODEL)
    tracking.finish()
    return f"{run.root}/{MODEL}", figures, version


def write_model_card(
    model: Path, *, base: str, config: dict[str, Any], run: dict[str, Any], figures: dict[str, float]
) -> None:
    """Write `model.json` and the card into a model folder."""
    adapter = (model / "adapter_config.json").is_file()
    spec = {
        "kind": "vlm-adapter" if adapter else "vlm",
        "base": base,
        "training": {"run": run.get("name"), "config": config, "metrics": figures, "versions": run.get("versions")},
    }
    (model / SPEC).write_text(json.dumps(spec, indent=2))
    (model / "README.md").write_text(model_card(spec))
