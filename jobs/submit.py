"""`fer submit`: run a command of `fer` as a job on a cluster."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field
from pydantic_settings import CliPositionalArg

from cluster.submission import Detached, SubmitOptions, connected, follow, new_name, submit
from fer.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


class Config(SubmitOptions):
    """Run a command of fer as a job on a cluster: fer submit train -- --data s3://bucket/faces."""

    job: CliPositionalArg[str] = Field(description="The command, such as train or ferbench; its options follow `--`")
    wait: bool = Field(True, description="Follow the job's log and return its exit code; --no-wait: return at once")


def main(config: Config, arguments: Sequence[str] = ()) -> None:
    """Submit the job, and follow its log. Exits with the job's exit code."""
    name, arguments = check_job(config.job, arguments)
    with connected(config) as client:
        job_id = submit(client, config.job, arguments, name, config)
        print(f"{job_id}: submitted. Ctrl-C leaves it running: fer jobs logs {job_id}", flush=True)
        if config.wait:
            exit_as(client, job_id)


def exit_as(client: JobSubmissionClient, job_id: str) -> None:
    """Follow a job's log, and exit with its exit code; with 130 if this command leaves it running."""
    try:
        sys.exit(follow(client, job_id))
    except Detached as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(130)


def check_job(job: str, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the job, and its arguments; with a ``--name`` if it makes a run, to resume it by.

    Raises UserError for what the command itself would refuse.
    """
    from fer.options import parse
    from fer.training.options import ExperimentOptions
    from jobs.commands import find_command

    command = find_command(job, arguments)
    if isinstance(command, str):
        raise UserError(f"which command of {job}? {command.splitlines()[-1]}")
    config = parse(command.config, command.arguments, command.name, command.recipes)
    if not isinstance(config, ExperimentOptions):
        return new_name(command.name), list(arguments)
    if config.name:
        return config.name, list(arguments)
    name = new_name(command.name)
    return name, [*arguments, "--name", name]


if __name__ == "__main__":
    from jobs.__main__ import run_job

    sys.exit(run_job("submit"))
