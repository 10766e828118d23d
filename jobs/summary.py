"""The closing lines of a training job: what it made, where it is, and what to run next."""

from __future__ import annotations

from cluster.logs import log_file
from fer.mlflow_buffer import flush
from fer.tracking import Run
from fer.training.options import ExperimentOptions
from fer.training.run import RunFolder


def print_summary(
    config: ExperimentOptions,
    run: RunFolder,
    tracking: Run,
    *,
    version: str | None = None,
    next_command: str | None = None,
    **outputs: str,
) -> None:
    """Print one line for each of ``outputs`` (name to path), the run, the registered version and the next command.

    Waits for MLflow first, as `Run.finish` does.
    """
    flush()
    lines = {
        **{name.capitalize(): path for name, path in outputs.items()},
        "Run": f"{run.root}  (MLflow: {tracking.uri}, run {tracking.run_id})",
        "Ray's log": str(log_file()),
        "Registered": version and f"models:/{config.register_as}@{config.alias}, version {version}",
        "Next": next_command,
    }
    for name, text in lines.items():
        if text:
            print(f"{name + ':':<12}{text}")
