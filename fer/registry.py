"""Models by name: registered ones with versions and aliases, those of runs, folders, and the bundled ones.

MLflow's model flavours are not used: a model is logged as the files of its folder, so nothing is pickled.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from fer.errors import UserError
from fer.mlflow_client import mlflow_client
from fer.mlflow_send import MODEL as MODEL
from fer.mlflow_send import create_version
from fer.storage import CACHE, check_access, fetch_folder, get_filesystem, is_uri, move_folder
from fer.tracking import TrackingOptions, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

BUNDLED = Path(__file__).parent / "models" / "bundled"
"""Models that come with Ferry, a folder each."""
DEFAULT_MODEL = "ferry-small"
"""The bundled model that `fer predict`, `fer serve` and `fer.load_model` use if no other is named."""

SPEC, WEIGHTS, GRAPH, OPENVINO_GRAPH = "model.json", "model.safetensors", "model.onnx", "model.xml"
"""Files of a model folder; a graph is there if the model was exported to ONNX or OpenVINO. Vision-language models have
a spec, but store their weights as transformers does."""

CANARY = "canary"
"""Tag of a registered version: the share of the clients, 0 to 1, that it answers as a challenger."""


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
    assert (model_folder / SPEC).is_file(), f"{model_folder} is not a model folder"
    with mlflow_client(tracking_uri(options)) as client:
        return create_version(client, run_id, model_folder, name, alias, tags or {})


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
    with mlflow_client(uri) as client:
        old = client.get_registered_model(name).aliases.get(alias)
        client.set_registered_model_alias(name, alias, str(new))
    return (str(old) if old is not None else None), str(new)


def set_canary(name: str, share: float, tracking: TrackingOptions, alias: str = "challenger") -> str:
    """Let the version with ``alias`` answer this share of the clients, 0 to 1, on servers whose challenger it is.

    The share becomes the version's tag `CANARY`. Returns the version. Raises UserError if there is none.
    """
    uri = tracking_uri(tracking)
    version = str(_find_version(uri, name, alias=alias).version)
    with mlflow_client(uri) as client:
        client.set_model_version_tag(name, version, CANARY, str(share))
    return version


def canary_share(reference: str, tracking: TrackingOptions) -> float | None:
    """The share that `set_canary` has given to a version; None if it was not set, or the model is not registered."""
    if not reference.startswith("models:/"):
        return None
    share = _version(reference, tracking).tags.get(CANARY)
    return None if share is None else float(share)


def resolve_model(reference: str, tracking: TrackingOptions) -> Path:
    """Local path of the model folder that ``reference`` names; remote ones are downloaded once, to the cache folder.

    Raises UserError as `locate_model` does.
    """
    return fetch_folder(locate_model(reference, tracking))


def locate_model(reference: str, tracking: TrackingOptions) -> str:
    """Path or URI of the model folder that ``reference`` names.

    A reference is a model folder, the folder of a run or checkpoint (or the URI of one), the name of a run in the
    storage or of a bundled model, ``runs:/RUN_ID/model``, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``. Raises
    UserError if there is no such model.
    """
    if reference.startswith("models:/"):
        return str(_download(str(_version(reference, tracking).source), tracking))
    if reference.startswith("runs:/"):
        run_id, _, path = reference.removeprefix("runs:/").partition("/")
        with mlflow_client(tracking_uri(tracking)) as client:
            return str(_download(f"{client.get_run(run_id).info.artifact_uri}/{path or MODEL}", tracking))
    folder = reference.rstrip("/")
    tried = [folder, f"{folder}/{MODEL}"]
    if not is_uri(reference):
        tried += [f"{tracking.storage.rstrip('/')}/{folder}/{MODEL}", str(BUNDLED / reference)]
    for location in tried:
        fs, path = get_filesystem(location)
        check_access(location)
        if fs.isfile(f"{path}/{SPEC}"):
            return location
    folders = ", ".join(location for location in tried if not location.startswith(str(BUNDLED)))
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

    with mlflow_client(uri) as client:
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
    elif parts.scheme in ("s3", "gs"):
        folder = fetch_folder(artifact_uri)
    else:
        from mlflow.artifacts import download_artifacts

        uri = tracking_uri(tracking)
        folder = CACHE / hashlib.sha256(f"{uri} {artifact_uri}".encode()).hexdigest()[:24]
        if not folder.is_dir():
            CACHE.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch, mlflow_client(uri):
                copy = download_artifacts(artifact_uri=artifact_uri, dst_path=scratch, tracking_uri=uri)
                move_folder(Path(copy), folder)
    if not (folder / SPEC).is_file():
        raise UserError(f"no model at {artifact_uri}: no {SPEC} in {folder}")
    return folder
