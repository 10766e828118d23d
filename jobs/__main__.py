"""`fer JOB`: one command per job. `python -m jobs.JOB` is the same thing."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from fer import __version__
from fer.errors import UserError
from fer.plugins import installed, load_object

JOBS = {
    "demo": "Train, judge, register and serve a small model on rendered faces, in a few minutes",
    "prepare": "Turn a data set into checked, shuffled Parquet shards",
    "questions": "Make questions about faces, with or without answers, from a data set of faces",
    "train": "Train an expression classifier",
    "tune": "Search for good hyperparameters: many trainings, the poor ones stopped early",
    "sft": "Fine-tune a vision-language model on questions and answers about faces",
    "grpo": "Reinforce a vision-language model with verifiable rewards",
    "merge": "Merge an adapter of a vision-language model into its base model",
    "ferbench": "Let models answer questions about faces, and score their answers as FERBench does",
    "evaluate": "Judge a model on a labelled data set, with intervals, plots and a report",
    "predict": "Read expressions from images, folders and videos",
    "dynamics": "Train a scorer of facial dynamics and synkinesis (research scores) in five stages",
    "dynamics extract": "Turn videos into frames for it: optical flow and landmarks",
    "dynamics predict": "Score videos and frames",
    "dynamics import-blendshapes": "Read the weights of MediaPipe's blendshape network",
    "dynamics serve": "Score frames and short videos over HTTP",
    "promote": "Give a registered model an alias, such as champion",
    "serve": "Answer requests over HTTP",
}
PLUGINS = "fer.commands"
"""Entry-point group of commands of other packages; each names a module with a ``Config`` and a ``main``."""

RECIPES = Path(__file__).parent / "recipes"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `fer` command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(commands=all_commands()))
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"ferry-fer {__version__}")
        return 0
    two_words = " ".join(argv[:2])
    job = two_words if two_words in JOBS else argv[0]
    if job not in JOBS and job not in (known := all_commands()):
        print(f"fer: no command {job!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    return run_job(job, argv[len(job.split()) :])


def run_job(job: str, argv: Sequence[str] | None = None) -> int:
    """Parse the job's config and run its `main`; a person's mistake is one line and exit code 2.

    A job with verbs (`fer ferbench run`) has a config and a `main` for each of them in its table ``VERBS``. The module
    of a job of two words, such as `dynamics extract`, is `jobs.dynamics_extract`.
    """
    from fer.options import parse

    argv = list(sys.argv[1:] if argv is None else argv)
    command, recipes = job, RECIPES / job
    try:
        module: Any = _module(job)
        verbs = getattr(module, "VERBS", None)
        if verbs:
            if not argv or argv[0] in ("-h", "--help"):
                print(usage(f"fer {job}", module.__doc__ or "", {name: verb.summary for name, verb in verbs.items()}))
                return 0
            if argv[0] not in verbs:
                raise UserError(f"no verb {argv[0]!r}; there are: {', '.join(verbs)}")
            command, module = f"{job} {argv[0]}", verbs[argv.pop(0)]
        config = parse(module.Config, argv, command, recipes)
        module.main(config)
    except UserError as error:
        print(f"fer {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"fer {command}: interrupted", file=sys.stderr)
        return 130
    return 0


def all_commands() -> dict[str, str]:
    """Every command and its summary; for those of other packages, the module that they come from."""
    others = {name: f"from {module}" for name, module in installed(PLUGINS).items()}
    return JOBS | others | JOBS  # Ferry's first, and never replaced


def _module(job: str) -> ModuleType:
    if job in JOBS:
        return import_module(f"jobs.{re.sub(r'[ -]', '_', job)}")
    return load_object(installed(PLUGINS)[job], "entry point")


def usage(
    program: str = "fer", purpose: str = "Facial expression recognition on Ray.", commands: Mapping[str, str] = JOBS
) -> str:
    width = max(map(len, commands))
    lines = [f"  {command:<{width}}  {summary}" for command, summary in commands.items()]
    return "\n".join(
        [
            f"usage: {program} COMMAND [OPTIONS]",
            "",
            purpose.splitlines()[0],
            "",
            "commands:",
            *lines,
            "",
            f"`{program} COMMAND --help` shows a command's options, each with its meaning, unit and default.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
