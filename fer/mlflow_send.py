"""Sends one buffered entry to MLflow. Each can be sent again if the answer was lost: it changes nothing more."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Entry = dict[str, Any]
"""``uri``, ``run`` (its id), and what is logged: ``metrics`` ([key, value, milliseconds, step], ...), ``params``,
``tags``, ``status`` with ``time``, ``artifacts`` with ``path``, ``register``, or ``create``."""

POINTS_PER_CALL, PARAMS_PER_CALL = 1000, 100
"""MLflow's limits."""
MODEL = "model"
"""Name of the model folder in a run's folder and in its artifacts."""
COPIES = "copies/"
"""Folder, beside the entries, of copies of the files that they name."""
PENDING = "pending-"
"""Beginning of the id of a run that could not be created yet."""
PENDING_TAG, REGISTRATION_TAG = "ferry.pending_id", "ferry.registration"
"""Tags by which a repeated request finds what the first one made."""


def send(client: MlflowClient, entry: Entry, folder: Path) -> None:
    """Send an entry; ``folder`` holds the copies of files that it names. Raises what the client does."""
    from mlflow.entities import Metric, Param, RunTag

    if "create" in entry:
        if find_run(client, entry["run"]) is None:
            create_run(client, **entry["create"], tags={PENDING_TAG: entry["run"]})
        return
    run_id = resolve(client, entry["run"])
    if "metrics" in entry:
        client.log_batch(run_id, metrics=[Metric(*point) for point in entry["metrics"]])
    elif "params" in entry:
        known = client.get_run(run_id).data.params
        new = [Param(key, value) for key, value in entry["params"].items() if key not in known]
        for start in range(0, len(new), PARAMS_PER_CALL):
            client.log_batch(run_id, params=new[start : start + PARAMS_PER_CALL])
    elif "tags" in entry:
        client.log_batch(run_id, tags=[RunTag(*tag) for tag in entry["tags"].items()])
    elif "status" in entry:
        client.set_terminated(run_id, entry["status"], entry["time"])
    elif "artifacts" in entry:
        if entry["artifacts"].startswith(COPIES) and not (folder / entry["artifacts"]).exists():
            return  # it was deleted after it had been sent
        with _local(entry["artifacts"], folder) as files:
            log_artifacts(client, run_id, files, entry["path"])
        _remove_copy(entry["artifacts"], folder)
    else:
        with _local(entry["register"]["folder"], folder) as model:
            create_version(client, run_id, **{**entry["register"], "folder": model})


def log_artifacts(client: MlflowClient, run_id: str, files: Path, path: str | None) -> None:
    """Upload a file, or the files of a folder, to the run's artifacts under ``path``."""
    if files.is_dir():
        client.log_artifacts(run_id, str(files), path)
    else:
        client.log_artifact(run_id, str(files), path)


def create_run(
    client: MlflowClient,
    experiment: str,
    name: str,
    artifacts: str | None,
    parent: str | None,
    tags: dict[str, str] | None = None,
) -> str:
    """Create a run in ``experiment``, which is created first if it is new, with artifacts at ``artifacts``."""
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifacts)
    tags = {**(tags or {}), **({"mlflow.parentRunId": resolve(client, parent)} if parent else {})}
    return str(client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)


def resolve(client: MlflowClient, run_id: str) -> str:
    """MLflow's id of a run. Raises MlflowException if it is not created yet."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

    if not run_id.startswith(PENDING):
        return run_id
    found = find_run(client, run_id)
    if found is None:
        raise MlflowException(f"run {run_id} is not created yet", TEMPORARILY_UNAVAILABLE)
    return found


def find_run(client: MlflowClient, pending_id: str) -> str | None:
    """The run that was created for a pending id."""
    experiments = [each.experiment_id for each in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`{PENDING_TAG}` = '{pending_id}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def create_version(
    client: MlflowClient, run_id: str, folder: Path, name: str, alias: str | None, tags: dict[str, str]
) -> str:
    """Log a model folder to its run, make it the next version of model ``name``, and set ``alias`` to it, if any.

    Returns the version. One with the same `REGISTRATION_TAG` is not made again.
    """
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # it exists; an invalid name fails again below
        client.create_registered_model(name)
    version = _find_version(client, name, tags.get(REGISTRATION_TAG))
    if version is None:
        location = client.get_run(run_id).info.artifact_uri
        taken = {each.source for each in client.search_model_versions(f"run_id = '{run_id}'")}
        names = (MODEL, *(f"{MODEL}-{number}" for number in range(2, 10_000)))
        source = next(f"{location}/{each}" for each in names if f"{location}/{each}" not in taken)
        client.log_artifacts(run_id, str(folder), source.rpartition("/")[2])
        version = str(client.create_model_version(name, source, run_id, tags=tags).version)
    if alias:
        client.set_registered_model_alias(name, alias, version)
    return version


def _find_version(client: MlflowClient, name: str, key: str | None) -> str | None:
    if key is None:
        return None
    versions = client.search_model_versions(f"name = '{name}'")
    return next((str(each.version) for each in versions if each.tags.get(REGISTRATION_TAG) == key), None)


@contextmanager
def _local(location: str, folder: Path) -> Iterator[Path]:
    """The files at ``location``: a URI, an absolute path, or the name of a copy in ``folder``."""
    if "://" not in location:
        if not (folder / location).exists():
            raise FileNotFoundError(f"{folder / location} was deleted")
        yield folder / location
        return
    import fsspec

    filesystem, path = fsspec.url_to_fs(location)
    with tempfile.TemporaryDirectory() as scratch:
        filesystem.get(path, f"{scratch}/{Path(path).name}", recursive=True)
        yield Path(scratch) / Path(path).name


def _remove_copy(location: str, folder: Path) -> None:
    if location.startswith(COPIES):
        shutil.rmtree((folder / location).parent)
