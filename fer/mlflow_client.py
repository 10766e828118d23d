"""A quiet MLflow client, and the SQLite database that it uses without a server."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fer.errors import UserError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SQLITE = "sqlite:///"
NETWORK_FILESYSTEMS = ("nfs", "cifs", "smb", "afs", "ceph", "gluster", "lustre", "beegfs", "fuse.sshfs", "fuse.s3fs")
"""Beginnings of the types of file systems on which SQLite's locks do not hold between machines."""
RUN_SERVER = (
    "run a server (`mlflow server --host 0.0.0.0 --backend-store-uri sqlite:////LOCAL/FOLDER/mlflow.db`) and name it "
    "with --tracking-uri http://HOST:5000"
)


@contextmanager
def mlflow_client(uri: str) -> Iterator[MlflowClient]:
    """An MLflow client. Its exceptions, such as an unreachable server, become a UserError of one line."""
    from mlflow.exceptions import MlflowException

    try:
        yield connect(uri)
    except MlflowException as error:
        raise UserError(f"MLflow at {uri}: {str(error).splitlines()[0]}") from error


@cache
def connect(uri: str) -> MlflowClient:
    """A client without telemetry and progress bars, which gives up on an unreachable server after about 15 seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of every retry
    if uri.startswith(SQLITE) and not (file := Path(uri.removeprefix(SQLITE))).exists():
        _create_database(file)
    return MlflowClient(uri)


def is_refusal(error: BaseException | None, uri: str) -> bool:
    """Whether MLflow has understood a request and will never accept it, or its files are gone; else, it may later."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, FileNotFoundError):
        return True
    # What is no answer of MLflow's comes from a proxy, or from nobody.
    answered = isinstance(error, RestException if uri.startswith("http") else MlflowException)
    final = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")
    return answered and getattr(error, "error_code", "") in final


def check_database(uri: str, hosts: int = 1, mounts: Sequence[tuple[str, str]] | None = None) -> None:
    """Raise UserError if ``uri`` is an SQLite database that can't take the writers of a job on ``hosts`` machines.

    ``mounts`` are mount points and types of file systems; None: those of this machine.
    """
    if not uri.startswith(SQLITE):
        return
    if hosts > 1:
        raise UserError(f"{uri}: SQLite can't be written from {hosts} nodes; {RUN_SERVER}")
    kind = filesystem_type(Path(uri.removeprefix(SQLITE)).resolve(), mounts)
    if kind.startswith(NETWORK_FILESYSTEMS):
        raise UserError(
            f"{uri}: SQLite's locks do not hold on a network file system ({kind}); put the database on a local disk "
            f"(--tracking-uri sqlite:////LOCAL/FOLDER/mlflow.db), or {RUN_SERVER}"
        )


def filesystem_type(path: Path, mounts: Sequence[tuple[str, str]] | None = None) -> str:
    """Type of the file system that holds an absolute path, as the kernel names it; empty if unknown."""
    import psutil

    if mounts is None:
        mounts = [(each.mountpoint, each.fstype) for each in psutil.disk_partitions(all=True)]
    above = [(len(point), number, kind) for number, (point, kind) in enumerate(mounts) if path.is_relative_to(point)]
    return max(above)[2] if above else ""


def _create_database(file: Path) -> None:
    """Create an SQLite database with MLflow's tables. It appears complete, unless another process was first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        copy = Path(scratch) / file.name
        copy.write_bytes(_empty_database())
        with suppress(FileExistsError):
            os.link(copy, file)


@cache
def _empty_database() -> bytes:
    """The file of a database with MLflow's tables and no rows; a process makes it once, since it takes seconds.

    It is made in memory: on disk, the migrations would wait for it a thousand times.
    """
    import sqlite3

    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    with closing(sqlite3.connect(":memory:")) as memory:
        _initialize_tables(create_engine("sqlite://", creator=lambda: memory, poolclass=StaticPool))
        return memory.serialize()
