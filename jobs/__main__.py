"""`fer JOB`: one command per job. `python -m jobs.JOB` is the same thing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from fer import __version__
from fer.errors import UserError

JOBS = {
    "demo": "Train, judge, register and serve a small model on rendered faces, in a few minutes",
    "prepare": "Turn a data set into checked, shuffled Parquet shards",
    "questions": "Make questions about faces, with or without answers, from a data set of faces",
    "train": "Train an expression classifier",
    "sft": "Fine-tune a vision-language model on questions and answers about faces",
    "merge": "Merge an adapter of a vision-language model into its base model",
    "evaluate": "Judge a model on a labelled data set, with intervals, plots and a report",
    "predict": "Read expressions from images, folders and videos",
    "promote": "Give a registered model an alias, such as champion",
    "serve": "Answer requests over HTTP",
}
RECIPES = Path(__file__).parent / "recipes"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `fer` command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"ferry-fer {__version__}")
        return 0
    if argv[0] not in JOBS:
        print(f"fer: no command {argv[0]!r}; there are: {', '.join(JOBS)}", file=sys.stderr)
        return 2
    return run_job(argv[0], argv[1:])


def run_job(job: str, argv: Sequence[str] | None = None) -> int:
    """Parse the job's config and run its `main`; a person's mistake is one line and exit code 2."""
    from fer.options import parse

    module = import_module(f"jobs.{job}")
    try:
        config = parse(module.Config, sys.argv[1:] if argv is None else argv, job, RECIPES / job)
        module.main(config)
    except UserError as error:
        print(f"fer {job}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"fer {job}: interrupted", file=sys.stderr)
        return 130
    return 0


def usage() -> str:
    width = max(map(len, JOBS))
    lines = [f"  {job:<{width}}  {summary}" for job, summary in JOBS.items()]
    return "\n".join(
        [
            "usage: fer COMMAND [OPTIONS]",
            "",
            "Facial expression recognition on Ray.",
            "",
            "commands:",
            *lines,
            "",
            "`fer COMMAND --help` shows a command's options, each with its meaning, unit and default.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
