"""A quiet MLflow client, and the SQLite database that it uses without a server."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fer.errors import UserError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@contextmanager
def mlflow_client(uri: str) -> Iterator[MlflowClient]:
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
