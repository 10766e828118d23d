"""One training of the scorer through its stages, on a Ray that is connected: launched, resumed, and finished."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ray.train import CheckpointConfig, UserCallback

from fer.dynamics.card import model_card
from fer.dynamics.evaluate import Judged, write_results
from fer.dynamics.model import ScorerSpec
from fer.dynamics.options import STAGES, DynamicsConfig
from fer.dynamics.preflight import FrameSet, absolute
from fer.dynamics.stages import History, finished, opened, start
from fer.dynamics.train import train
from fer.models.folder import WEIGHTS
from fer.tracking import MODEL, SPEC, Run, register, start_run
from fer.training.launch import launch
from fer.training.run import RunFolder, open_run


@dataclass(frozen=True)
class Campaign:
    """A run that has gone through its stages."""

    run: RunFolder
    tracking: Run
    stages: dict[str, Run]
    """MLflow runs of the stages that were asked for, nested in the campaign's."""


def open_campaign(config: DynamicsConfig, data: FrameSet, parent: Run | None = None) -> tuple[RunFolder, Run]:
    """The run's folder and its MLflow run, new or continued. Raises UserError if settings or data have changed."""
    run, tracking = open_run(config, "dynamics", "dynamics", data.fingerprint(), parent)
    run.write("set_aside.json", json.dumps(data.set_aside, indent=2, ensure_ascii=False))
    return run, tracking


def go_through(
    config: DynamicsConfig,
    data: FrameSet,
    splits: Sequence[str],
    parent: Run | None = None,
    callbacks: Sequence[UserCallback] = (),
) -> Campaign:
    """Train the stages that are asked for and not finished; ``callbacks`` hear of every epoch.

    An epoch's report has its stage, its number, its losses, and of each score val_SCORE_mse, _kappa and _accuracy.
    """
    run, tracking = open_campaign(config, data, parent)
    start(run.root, config)
    known: dict[str, str] = run.record.get("stage_runs", {})
    stages: dict[str, Run] = {
        name: start_run(config, config.experiment, f"{run.name}, stage {name}", known.get(name), tracking)
        for name in STAGES
        if name in config.stages
    }
    run.update(stage_runs=known | {name: stage.run_id for name, stage in stages.items()})
    for name, stage in stages.items():
        stage.log_params(config.stage(name).model_dump())  # type: ignore[arg-type]
    todo = [name for name in stages if name not in finished(run.root)]
    if todo:
        settings = {
            "config": config.model_copy(update={"data": absolute(config.data)}).model_dump(),
            "splits": list(splits),
            "root": run.root,
            "tracking": {name: asdict(stage) for name, stage in stages.items()},
        }
        launch(train, settings, config, run, CheckpointConfig(num_to_keep=1), callbacks)
    for stage in stages.values():
        stage.finish()
    return Campaign(run, tracking, stages)


def keep_model(config: DynamicsConfig, campaign: Campaign, figures: dict[str, dict[str, float]]) -> str | None:
    """Make the last finished stage the run's model, with a card; log it, register it if asked; the version."""
    run, last = campaign.run, finished(campaign.run.root)[-1]
    with opened(run.root, last) as folder, tempfile.TemporaryDirectory() as scratch:
        spec = ScorerSpec.model_validate_json((folder / SPEC).read_text())
        origin = {"run": run.name, "data": config.data, "stage": last, "metrics": figures, **run.record["versions"]}
        spec = spec.model_copy(update={"training": origin})
        model = Path(scratch) / MODEL
        model.mkdir()
        (model / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
        (model / SPEC).write_text(json.dumps(spec.model_dump(), indent=2))
        (model / "README.md").write_text(model_card(spec))
        run.upload(model, MODEL)
        if config.register_as:
            return register(config, campaign.tracking.run_id, model, config.register_as, config.alias)
        campaign.tracking.log_artifacts(model, MODEL)
        return None


def log_results(
    config: DynamicsConfig,
    run: RunFolder,
    tracking: Run,
    judged: Judged,
    histories: Mapping[str, History] | None = None,
    stages: Mapping[str, Run] | None = None,
) -> None:
    """Write the results into the run's folder, log them, and finish the MLflow run."""
    facts = {
        "Data": {
            "data": config.data,
            "content hash": run.record["data_hash"],
            "part": judged.part,
        },
        "Settings": config.model_dump(),
        "Versions": {**run.record["versions"], "commit": run.record["commit"] or "not from a repository"},
    }
    with tempfile.TemporaryDirectory() as scratch:
        write_results(judged, histories or {}, facts, f"Facial dynamics: {run.name}", Path(scratch))
        run.upload(Path(scratch))
        tracking.log_artifacts(Path(scratch))
    for stage, nested in (stages or {}).items():
        nested.log_metrics(_flat(judged.of_stage(stage), judged.part), step=0)
    tracking.log_metrics(_flat(judged.of_stage(list(judged.estimates)[-1]), judged.part), step=0)
    tracking.finish()


def _flat(figures: Mapping[str, Mapping[str, float]], part: str) -> dict[str, float]:
    return {f"best_{part}_{score}_{name}": value for score, found in figures.items() for name, value in found.items()}
