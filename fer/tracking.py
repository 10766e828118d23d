"""MLflow runs with their metrics.

Without a server, runs are stored in SQLite and artifacts in a folder beside it. MLflow's global state is not used.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import Field

from fer.errors import UserError
from fer.mlflow_buffer import append, buffer_path, flush, is_down
from fer.mlflow_client import SQLITE, check_database, is_refusal, mlflow_client
from fer.mlflow_send import (
    COPIES,
    PENDING,
    POINTS_PER_CALL,
    REGISTRATION_TAG,
    create_run,
    create_version,
    find_run,
    resolve,
)
from fer.options import Options

FULL_SERIES = 100_000
"""Steps up to which a series is sent in full."""


class TrackingOptions(Options):
    """Where runs, metrics and registered models are stored."""

    storage: str = Field(
        "runs",
        description="Storage of runs, checkpoints, models, evaluations and sweeps: a path that every node can reach, "
        "or a URI (s3://, gs://)",
    )
    tracking_uri: str | None = Field(
        None, description="MLflow server or database; unset: MLFLOW_TRACKING_URI, else SQLite in --storage"
    )


def tracking_uri(options: TrackingOptions) -> str:
    """The tracking URI: the option, else MLFLOW_TRACKING_URI, else SQLite in the output folder, which is created."""
    given = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    if "://" in options.storage:
        raise UserError(f"--storage {options.storage} can't hold a database: name an MLflow server with --tracking-uri")
    folder = Path(options.storage).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}"


@dataclass(frozen=True)
class Run:
    """An MLflow run. Only plain values, so it can be sent to another process.

    What is logged waits on disk until MLflow has taken it (see `fer.mlflow_buffer`), and no method but `finish` waits.
    """

    uri: str
    run_id: str
    step_offset: int = 0
    """Added to the steps of metrics: each stage of a run in several stages starts where the one before ended."""
    buffer: str = ""
    """Folder of what MLflow has not taken yet: an absolute path, or a name in the cache folder; empty: the run's id."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters. MLflow does not overwrite them: a resumed run keeps the first values."""
        self._append(params={key: str(value) for key, value in params.items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        now, step = _now(), self.step_offset + step
        self._append(metrics=[[key, float(value), now, step] for key, value in metrics.items()])

    def log_series(self, name: str, values: Sequence[float], first_step: int) -> None:
        """Log one metric at consecutive steps, of which those that `is_logged` is true for are sent."""
        now, first = _now(), self.step_offset + first_step
        points = [[name, float(value), now, step] for step, value in enumerate(values, first) if is_logged(step)]
        for start in range(0, len(points), POINTS_PER_CALL):
            self._append(metrics=points[start : start + POINTS_PER_CALL])

    def log_artifacts(self, files: Path, path: str | None = None, kept: str | None = None) -> None:
        """Upload a file, or the files of a folder, to the run's artifacts, under ``path``.

        They are copied, because they may be temporary; unless ``kept`` is where the same files stay: a path or a URI.
        """
        if kept is None:
            kept = f"{COPIES}{uuid4().hex}/{files.name}"
            copy = buffer_path(self.buffer or self.run_id) / kept
            copy.parent.mkdir(parents=True, mode=0o700)
            (shutil.copytree if files.is_dir() else shutil.copy)(files, copy)
        self._append(artifacts=kept, path=path)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._append(tags={key: str(value) for key, value in tags.items()})

    def set_status(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Mark the run as ended."""
        self._append(status=status, time=_now())

    def finish(self) -> None:
        """Mark the run as finished, and wait a minute at most until MLflow has taken what this process logged."""
        self.set_status("FINISHED")
        flush()

    def register(self, model: Path, kept: str, name: str, alias: str | None) -> str | None:
        """Log a model folder to the run and register it; ``kept`` is where the same folder stays, a path or a URI.

        Returns the version; None if MLflow is down, and the model is registered when it is back. Raises UserError if
        MLflow refuses it.
        """
        tags = {REGISTRATION_TAG: uuid4().hex}
        try:
            with mlflow_client(self.uri) as client:
                return create_version(client, resolve(client, self.run_id), model, name, alias, tags)
        except UserError as error:
            if is_refusal(error.__cause__, self.uri):
                raise
        self._append(register={"folder": kept, "name": name, "alias": alias, "tags": tags})
        return None

    def _append(self, **entry: Any) -> None:
        append(self.buffer or self.run_id, {"uri": self.uri, "run": self.run_id, **entry})


def is_logged(step: int) -> bool:
    """Whether a step's point of a series is sent: every step's below 100,000, then every tenth, from a million on every
    hundredth, and so on."""
    stride = 1
    while step >= stride * FULL_SERIES:
        stride *= 10
    return step % stride == 0


def start_run(
    options: TrackingOptions,
    experiment: str,
    name: str,
    run_id: str | None = None,
    parent: Run | None = None,
    buffer: str = "",
) -> Run:
    """Create a run called ``name`` in ``experiment``; with ``run_id``, resume that run.

    MLflow displays a run with a ``parent`` as its child. A child may be created while MLflow is down: it gets its id
    when MLflow is back. Raises UserError otherwise, and for a database that can't take several writers.
    """
    uri = tracking_uri(options)
    check_database(uri)
    buffer = buffer or (parent.buffer or parent.run_id if parent else "")
    new: Any = {"experiment": experiment, "name": name, "artifacts": _artifact_location(uri)}
    new["parent"] = parent.run_id if parent else None
    if parent is None or not is_down(buffer):
        try:
            with mlflow_client(uri) as client:
                if run_id is None:
                    return Run(uri, create_run(client, **new), buffer=buffer)
                if (known := find_run(client, run_id) if run_id.startswith(PENDING) else run_id) is not None:
                    client.update_run(known, status="RUNNING")
        except UserError as error:
            if parent is None or is_refusal(error.__cause__, uri):
                raise
    if run_id is None:
        run_id = f"{PENDING}{uuid4().hex}"
        append(buffer, {"uri": uri, "run": run_id, "create": new})
    return Run(uri, run_id, buffer=buffer)


def _now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def _artifact_location(uri: str) -> str | None:
    """Artifacts are stored beside an SQLite database; a server uses its own location."""
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).absolute().parent / "mlartifacts").as_uri()
