"""Export after training: the last stage becomes the run's model folder with a card, logged to MLflow and registered."""

from __future__ import annotations

from collections.abc import Mapping

from fer.dynamics.card import model_card
from fer.dynamics.model import DynamicsSpec
from fer.dynamics.options import DynamicsConfig
from fer.dynamics.stage_folders import finished_stages, stage_folder
from fer.registry import SPEC, WEIGHTS
from fer.tracking import Run
from fer.training.export import publish_model
from fer.training.run import RunFolder


def export_model(
    config: DynamicsConfig, run: RunFolder, tracking: Run, metrics: Mapping[str, Mapping[str, float]]
) -> tuple[str, str | None]:
    """Write ``<run>/model`` from the last finished stage, log it, and register it if ``--register-as`` is given.

    ``metrics`` of each score are shown on the card. Returns the model folder and the registered version.
    """
    last = finished_stages(run.root)[-1]
    training = {"run": run.name, "data": config.data, "stage": last, "metrics": metrics, **run.record["versions"]}
    with stage_folder(run.root, last) as stage:
        spec = DynamicsSpec.model_validate_json((stage / SPEC).read_text())
        spec = spec.model_copy(update={"training": training})
        return publish_model(config, run, tracking, stage / WEIGHTS, spec, model_card(spec))
