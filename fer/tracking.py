"""MLflow runs with their metrics.

Without a server, runs are stored in SQLite and artifacts in a folder beside it. MLflow's global state is not used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fer.errors import UserError
from fer.mlflow_client import mlflow_client
from fer.options import Options

PARAMS_PER_CALL = 100  # MLflow's limit
METRICS_PER_CALL = 1000  # likewise


class TrackingOptions(Options):
    """Where runs, metrics and registered models are stored."""

    out_dir: str = Field(
        "runs", description="Folder of runs, checkpoints and MLflow's database: a path or URI that every node can reach"
    )
    tracking_uri: str | None = Field(
        None, description="MLflow server or database; unset: MLFLOW_TRACKING_URI, else SQLite in --out-dir"
    )


def tracking_uri(options: TrackingOptions) -> str:
    """The tracking URI: the option, else MLFLOW_TRACKING_URI, else SQLite in the output folder, which is created."""
    given = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    if "://" in options.out_dir:
        raise UserError(f"--out-dir {options.out_dir} can't hold a database: name an MLflow server with --tracking-uri")
    folder = Path(options.out_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}"


@dataclass(frozen=True)
class Run:
    """An MLflow run. Only plain values, so it can be sent to another process."""

    uri: str
    run_id: str
    step_offset: int = 0
    """Added to the steps of metrics: each stage of a run in several stages starts where the one before ended."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters. MLflow does not overwrite them: a resumed run keeps the first values."""
        from mlflow.entities import Param

        with mlflow_client(self.uri) as client:
            known = client.get_run(self.run_id).data.params
            new = [Param(key, str(value)) for key, value in params.items() if key not in known]
            for start in range(0, len(new), PARAMS_PER_CALL):
                client.log_batch(self.run_id, params=new[start : start + PARAMS_PER_CALL])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(key, float(value), now, self.step_offset + step) for key, value in metrics.items()]
        with mlflow_client(self.uri) as client:
            client.log_batch(self.run_id, metrics=points)

    def log_series(self, name: str, values: Sequence[float], first_step: int) -> None:
        """Log one metric at consecutive steps."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, float(value), now, self.step_offset + first_step + i) for i, value in enumerate(values)]
        with mlflow_client(self.uri) as client:
            for start in range(0, len(points), METRICS_PER_CALL):
                client.log_batch(self.run_id, metrics=points[start : start + METRICS_PER_CALL])

    def log_artifacts(self, folder: Path, path: str | None = None) -> None:
        """Upload the files of ``folder`` to the run's artifacts, under ``path``."""
        with mlflow_client(self.uri) as client:
            client.log_artifacts(self.run_id, str(folder), path)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        with mlflow_client(self.uri) as client:
            client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        with mlflow_client(self.uri) as client:
            client.set_terminated(self.run_id, status)


def start_run(
    options: TrackingOptions, experiment: str, name: str, run_id: str | None = None, parent: Run | None = None
) -> Run:
    """Create a run called ``name`` in ``experiment``; with ``run_id``, resume that run.

    MLflow displays a run with a ``parent`` as its child.
    """
    uri = tracking_uri(options)
    with mlflow_client(uri) as client:
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            return Run(uri, run_id)
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, _artifact_location(uri))
        tags = {"mlflow.parentRunId": parent.run_id} if parent else None
        return Run(uri, client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)


def _artifact_location(uri: str) -> str | None:
    """Artifacts are stored beside an SQLite database; a server uses its own location."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
