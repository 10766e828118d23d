"""MLflow: runs with their metrics, and registered models with aliases.

Without a server, runs are stored in SQLite and artifacts in a folder beside it. Neither MLflow's global state nor its
model flavours are used: a model is logged as the files of its folder, so nothing is pickled.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import Field

from fer.errors import UserError
from fer.options import Options

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

MODEL = "model"
"""Name of the model folder in a run's folder and in its artifacts."""

BUNDLED = Path(__file__).parent / "models" / "bundled"
"""Models that come with Ferry, a folder each."""
DEFAULT_MODEL = "ferry-small"
"""The bundled model that `fer predict`, `fer serve` and `fer.load_model` use if no other is named."""

SPEC, WEIGHTS, GRAPH, OPENVINO_GRAPH = "model.json", "model.safetensors", "model.onnx", "model.xml"
"""Files of a model folder; a graph is there if the model was exported to ONNX or OpenVINO. Vision-language models have
a spec, but store their weights as transformers does."""

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ferry" / "models"
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

        with _client(self.uri) as client:
            known = client.get_run(self.run_id).data.params
            new = [Param(key, str(value)) for key, value in params.items() if key not in known]
            for start in range(0, len(new), PARAMS_PER_CALL):
                client.log_batch(self.run_id, params=new[start : start + PARAMS_PER_CALL])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(key, float(value), now, self.step_offset + step) for key, value in metrics.items()]
        with _client(self.uri) as client:
            client.log_batch(self.run_id, metrics=points)

    def log_series(self, name: str, values: Sequence[float], first_step: int) -> None:
        """Log one metric at consecutive steps."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, float(value), now, self.step_offset + first_step + i) for i, value in enumerate(values)]
        with _client(self.uri) as client:
            for start in range(0, len(points), METRICS_PER_CALL):
                client.log_batch(self.run_id, metrics=points[start : start + METRICS_PER_CALL])

    def log_artifacts(self, folder: Path, path: str | None = None) -> None:
        """Upload the files of ``folder`` to the run's artifacts, under ``path``."""
        with _client(self.uri) as client:
            client.log_artifacts(self.run_id, str(folder), path)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        with _client(self.uri) as client:
            client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        with _client(self.uri) as client:
            client.set_terminated(self.run_id, status)


def start_run(
    options: TrackingOptions, experiment: str, name: str, run_id: str | None = None, parent: Run | None = None
) -> Run:
    """Create a run called ``name`` in ``experiment``; with ``run_id``, resume that run.

    MLflow displays a run with a ``parent`` as its child.
    """
    uri = tracking_uri(options)
    with _client(uri) as client:
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            return Run(uri, run_id)
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, _artifact_location(uri))
        tags = {"mlflow.parentRunId": parent.run_id} if parent else None
        return Run(uri, client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)


def register(
    options: TrackingOptions,
    run_id: str,
    model_folder: Path,
    name: str,
    alias: str | None,
    tags: dict[str, str] | None = None,
) -> str:
    """Log a model folder to its run, register it as the next version of model ``name``, and set ``alias`` to it.

    Without an alias, none is set.
    Returns the version. Versions are immutable: registering again from the same run logs a second folder.
    """
    from mlflow.exceptions import MlflowException

    assert (model_folder / SPEC).is_file(), f"{model_folder} is not a model folder"
    with _client(tracking_uri(options)) as client:
        with suppress(MlflowException):  # it exists; an invalid name fails again below
            client.create_registered_model(name)
        taken = {artifact.path for artifact in client.list_artifacts(run_id)}
        folder = next(path for path in (MODEL, *(f"{MODEL}-{n}" for n in range(2, 10_000))) if path not in taken)
        client.log_artifacts(run_id, str(model_folder), folder)
        source = f"{client.get_run(run_id).info.artifact_uri}/{folder}"
        version = str(client.create_model_version(name, source, run_id, tags=tags).version)
        if alias:
            client.set_registered_model_alias(name, alias, version)
        return version


def register_variant(reference: str, model_folder: Path, tags: Mapping[str, str], tracking: TrackingOptions) -> str:
    """Register another form of the registered model ``reference`` as its next version; no alias moves.

    Returns the version. Its tag ``source_version`` names the version that it was made from, whose run gets the files.
    """
    source = _version(reference, tracking)
    if source.run_id is None:
        raise UserError(
            f"{reference} was registered without a run, so its variants can't be: export its folder instead"
        )
    tags = {**tags, "source_version": str(source.version)}
    return register(tracking, source.run_id, model_folder, source.name, alias=None, tags=tags)


def promote(
    name: str, version: str | None, alias: str, tracking: TrackingOptions, source: str = "challenger"
) -> tuple[str | None, str]:
    """Set ``alias`` of the model ``name`` to ``version``, or to the version with the alias ``source``.

    Returns the version that had the alias before (None if there was none) and the one that has it now.
    """
    uri = tracking_uri(tracking)
    new = _find_version(uri, name, version=version, alias=None if version else source).version
    with _client(uri) as client:
        old = client.get_registered_model(name).aliases.get(alias)
        client.set_registered_model_alias(name, alias, str(new))
    return (str(old) if old is not None else None), str(new)


def resolve_model(reference: str, tracking: TrackingOptions) -> Path:
    """Local path of the model folder that ``reference`` names.

    A reference is a model folder, the folder of a run or checkpoint, the name of a run in the output folder or of a
    bundled model, ``runs:/RUN_ID/model``, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``. Remote artifacts are
    downloaded once, to the cache folder. Raises UserError if there is no such model.
    """
    if reference.startswith("models:/"):
        return _download(str(_version(reference, tracking).source), tracking)
    if reference.startswith("runs:/"):
        run_id, _, path = reference.removeprefix("runs:/").partition("/")
        with _client(tracking_uri(tracking)) as client:
            return _download(f"{client.get_run(run_id).info.artifact_uri}/{path or MODEL}", tracking)
    tried = [
        Path(reference),
        Path(reference) / MODEL,
        Path(tracking.out_dir) / reference / MODEL,
        BUNDLED / reference,
    ]
    for folder in tried:
        if (folder / SPEC).is_file():
            return folder
    folders = ", ".join(str(folder) for folder in tried[:-1])
    raise UserError(
        f"no model {reference!r}: no {SPEC} in {folders}; or give a registered model (models:/NAME@ALIAS) "
        f"or {DEFAULT_MODEL}, which comes with Ferry"
    )


def model_version(reference: str, tracking: TrackingOptions) -> str:
    """The current version of a model: a registered model's number, else the first digits of its weights' hash."""
    if reference.startswith("models:/"):
        return str(_version(reference, tracking).version)
    folder = resolve_model(reference, tracking)
    try:
        with (folder / WEIGHTS).open("rb") as weights:
            return hashlib.file_digest(weights, "sha256").hexdigest()[:12]
    except FileNotFoundError:
        raise UserError(f"no {WEIGHTS} in the model folder {folder}") from None


def model_name(reference: str) -> str:
    """A model's registered name, its run's id, or its folder's name."""
    if reference.startswith(("models:/", "runs:/")):
        return reference.partition(":/")[2].partition("@")[0].partition("/")[0]
    folder = Path(reference)
    return folder.parent.name if folder.name == MODEL else folder.name


def _version(reference: str, tracking: TrackingOptions) -> ModelVersion:
    rest = reference.removeprefix("models:/")
    name, at, alias = rest.partition("@")
    if at:
        return _find_version(tracking_uri(tracking), name, alias=alias)
    name, _, version = rest.partition("/")
    if not version.isdigit():
        raise UserError(f"{reference!r} has no version: write models:/NAME@ALIAS or models:/NAME/VERSION")
    return _find_version(tracking_uri(tracking), name, version=version)


def _find_version(uri: str, name: str, version: str | None = None, alias: str | None = None) -> ModelVersion:
    """A version of a registered model. Raises UserError that lists the versions and aliases."""
    from mlflow.exceptions import MlflowException

    with _client(uri) as client:
        try:
            aliases = client.get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none"
            raise UserError(f"no registered model {name!r} in {uri}; registered: {known}") from None
        wanted = str(aliases.get(alias, "")) if alias else version
        versions = {str(found.version): found for found in client.search_model_versions(f"name = '{name}'")}
        if wanted in versions:
            return versions[wanted]
        what = f"alias {alias!r}" if alias else f"version {version!r}"
        listed = ", ".join(sorted(versions, key=int)) or "none"
        pointing = ", ".join(f"{each} -> {number}" for each, number in sorted(aliases.items())) or "none"
        raise UserError(f"model {name!r} has no {what}; versions: {listed}; aliases: {pointing}")


def _download(artifact_uri: str, tracking: TrackingOptions) -> Path:
    """Local folder of the model at ``artifact_uri``: the folder itself, or a cached download."""
    parts = urlsplit(artifact_uri)
    if parts.scheme in ("", "file"):
        folder = Path(url2pathname(parts.path))
    else:
        from mlflow.artifacts import download_artifacts

        uri = tracking_uri(tracking)
        folder = CACHE / hashlib.sha256(f"{uri} {artifact_uri}".encode()).hexdigest()[:24]
        if not folder.is_dir():
            CACHE.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch, _client(uri):
                copy = download_artifacts(artifact_uri=artifact_uri, dst_path=scratch, tracking_uri=uri)
                _move(Path(copy), folder)
    if not (folder / SPEC).is_file():
        raise UserError(f"no model at {artifact_uri}: no {SPEC} in {folder}")
    return folder


def _move(copy: Path, folder: Path) -> None:
    """Move a complete download into place, unless another process was first with the same files."""
    try:
        copy.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _artifact_location(uri: str) -> str | None:
    """Artifacts are stored beside an SQLite database; a server uses its own location."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()


@contextmanager
def _client(uri: str) -> Iterator[MlflowClient]:
    """An MLflow client. Its exceptions, such as an unreachable server, become a UserError of one line."""
    from mlflow.exceptions import MlflowException

    try:
        yield _connect(uri)
    except MlflowException as error:
        raise UserError(f"MLflow at {uri}: {str(error).splitlines()[0]}") from error


@cache
def _connect(uri: str) -> MlflowClient:
    """A client without telemetry and progress bars, which gives up on an unreachable server after about 15 seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if uri.startswith("sqlite:///") and not (file := Path(uri.removeprefix("sqlite:///"))).exists():
        _create_database(file)
    return MlflowClient(uri)


def _create_database(file: Path) -> None:
    """Create an SQLite database with MLflow's tables.

    They are made in memory and then copied: on disk, the migrations would wait for it a thousand times. The file
    appears when it is complete, unless another process was first.
    """
    import sqlite3

    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    memory = sqlite3.connect(":memory:")
    _initialize_tables(create_engine("sqlite://", creator=lambda: memory, poolclass=StaticPool))
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        copy = Path(scratch) / file.name
        with closing(sqlite3.connect(copy)) as database:
            memory.backup(database)
        with suppress(FileExistsError):
            os.link(copy, file)
