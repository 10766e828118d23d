"""`fer mlflow sync`: send what was logged while MLflow was down."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import CliPositionalArg

from fer.options import Options


class Config(Options):
    """Send MLflow what a run logged while it was down: parameters, metrics, artifacts and registered models."""

    folder: CliPositionalArg[str] = Field(description="Folder of the run, or of several runs, such as runs")


def main(config: Config) -> None:
    """Send all that is left below the folder."""
    from pathlib import Path

    from fer.errors import UserError
    from fer.mlflow_buffer import sync

    folder = Path(config.folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    print(f"{sync(folder)} entries sent to MLflow")


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("mlflow sync"))
