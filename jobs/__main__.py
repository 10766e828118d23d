"""`fer JOB`: one command per job. `python -m jobs.JOB` is equivalent."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Sequence

from fer import __version__
from fer.errors import UserError
from jobs.commands import JOBS, all_commands, find_command, split_job, usage

PASSES_ON = "submit"
"""The command whose line goes on, after ``--``, with that of another one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `fer` command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(commands=all_commands()))
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"ferry-fer {__version__}")
        return 0
    job, arguments = split_job(argv)
    if job not in JOBS and job not in (known := all_commands()):
        print(f"fer: unknown command {job!r}; choose from {', '.join(known)}", file=sys.stderr)
        return 2
    return run_job(job, arguments)


def run_job(job: str, argv: Sequence[str] | None = None) -> int:
    """Parse the job's config, run its `main` and return the exit code; a UserError prints one line and returns 2."""
    from fer.options import parse

    _collect_less_garbage()
    argv = list(sys.argv[1:] if argv is None else argv)
    passed_on: list[list[str]] = []
    if job == PASSES_ON and "--" in argv:
        end = argv.index("--")
        argv, passed_on = argv[:end], [argv[end + 1 :]]
    name = job
    try:
        command = find_command(job, argv)
        if isinstance(command, str):
            print(command)
            return 0
        name = command.name
        config = parse(command.config, command.arguments, name, command.recipes)
        command.main(config, *passed_on)
    except UserError as error:
        print(f"fer {name}: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if "ray" in sys.modules:
            from cluster.logs import log_file

            if log := log_file():
                error.add_note(f"Ray's log: {log}")
        raise
    except KeyboardInterrupt:
        print(f"fer {name}: interrupted", file=sys.stderr)
        return 130
    finally:
        if "fer.mlflow_buffer" in sys.modules:
            from fer.mlflow_buffer import flush

            flush()
    return 0


def _collect_less_garbage() -> None:
    """Modules are no garbage: looking for some during imports and at exit took a third of a short command's time."""
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)


if __name__ == "__main__":
    sys.exit(main())
