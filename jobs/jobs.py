"""`fer jobs`: the jobs of a cluster, their logs; stop and resume them."""

from __future__ import annotations

import json
import sys

from pydantic import Field
from pydantic_settings import CliPositionalArg

from cluster.submission import ClusterOptions, SubmitOptions, connected, find, find_lost, is_running, submit
from fer.errors import UserError
from jobs.commands import Subcommand
from jobs.submit import exit_as


class ListConfig(ClusterOptions):
    """List the jobs of the cluster, the newest first."""

    price_per_hour: float | None = Field(
        None, ge=0, description="Price of one GPU for an hour, to show each job's cost"
    )


class LogsConfig(ClusterOptions):
    """Print the log of a job."""

    job_id: CliPositionalArg[str] = Field(description="The job")
    follow: bool = Field(True, description="Follow the log until the job ends, and return its exit code")


class StopConfig(ClusterOptions):
    """Stop a job. Its checkpoints stay: `fer jobs resume` goes on from the latest."""

    job_id: CliPositionalArg[str] = Field(description="The job")


class ResumeConfig(SubmitOptions):
    """Submit a stopped or failed job again, with the same arguments and name: it goes on from its latest checkpoint."""

    job_id: CliPositionalArg[str] = Field(description="The job")
    wait: bool = Field(True, description="Follow the job's log and return its exit code; --no-wait: return at once")


def list_jobs(config: ListConfig) -> None:
    """Print a table of jobs."""
    import rich
    from rich.table import Column, Table

    from cluster.inspection import jobs

    table = Table(Column("job", no_wrap=True), "command", "status", "time", "progress", "remaining", "GPUs")
    if config.price_per_hour is not None:
        table.add_column("cost")
    for job in jobs(config):
        row = [job.job_id, job.command, job.status, duration(job.seconds), job.progress]
        row += [duration(job.remaining) if job.remaining is not None else "", f"{job.gpus:g}"]
        if config.price_per_hour is not None:
            row.append(f"{job.gpu_hours * config.price_per_hour:.2f}")
        table.add_row(*row)
    rich.print(table)


def logs(config: LogsConfig) -> None:
    """Print a job's log, and follow it while the job runs."""
    with connected(config) as client:
        find(client, config.job_id)
        if config.follow:
            exit_as(client, config.job_id)
        print(client.get_job_logs(config.job_id), end="")


def stop(config: StopConfig) -> None:
    """Stop a job."""
    with connected(config) as client:
        find(client, config.job_id)
        stopped = client.stop_job(config.job_id)
    print(f"{config.job_id}: " + ("stopping; its checkpoints stay" if stopped else "it had ended already"))


def resume(config: ResumeConfig) -> None:
    """Submit a job again. Exits with its exit code."""
    with connected(config) as client:
        job = find(client, config.job_id)
        if not job.metadata or "arguments" not in job.metadata:
            raise UserError(f"{config.job_id} was not submitted by `fer submit`: submit it anew")
        if is_running(job) and not find_lost(client, [job]):
            raise UserError(f"{config.job_id} still runs; its log: fer jobs logs {config.job_id}")
        name, arguments = job.metadata["name"], json.loads(job.metadata["arguments"])
        job_id = submit(client, job.metadata["job"], arguments, name, config)
        print(f"{job_id}: submitted. Ctrl-C leaves it running: fer jobs logs {job_id}", flush=True)
        if config.wait:
            exit_as(client, job_id)


def duration(seconds: float) -> str:
    """Such as "2 h 05 min", "3 min 10 s" or "12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


SUBCOMMANDS = {
    "list": Subcommand("List the jobs, their progress, GPUs and costs", ListConfig, list_jobs),
    "logs": Subcommand("Print the log of a job", LogsConfig, logs),
    "stop": Subcommand("Stop a job", StopConfig, stop),
    "resume": Subcommand(
        "Submit a job that has ended again, to go on from its latest checkpoint", ResumeConfig, resume
    ),
}

if __name__ == "__main__":
    from jobs.__main__ import run_job

    sys.exit(run_job("jobs"))
