"""The commands of `fer`, by name: Ferry's own and those of installed packages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fer.errors import UserError
from fer.options import Options
from fer.plugins import import_object, installed

JOBS = {
    "demo": "Train, evaluate, register and serve a small model on rendered faces, and read a portrait",
    "prepare": "Convert a data set to validated, shuffled Parquet shards",
    "questions": "Generate questions about faces, with or without answers, from a data set of faces",
    "train": "Train an expression classifier",
    "tune": "Search hyperparameters, and stop poor trials early",
    "sft": "Fine-tune a vision-language model on questions and answers about faces",
    "grpo": "Train a vision-language model with GRPO on verifiable rewards",
    "merge": "Merge a LoRA adapter into its base model",
    "ferbench": "Benchmark models on questions about faces, as FERBench does",
    "evaluate": "Evaluate a model on a labelled data set, with confidence intervals, plots and a report",
    "export": "Export a classifier to ONNX or OpenVINO, in fp32, bf16 or int8",
    "predict": "Predict expressions in images, folders and videos",
    "fetch": "Download the face detector YuNet, once",
    "dynamics": "Train a model of facial dynamics and synkinesis (research scores) in five stages",
    "dynamics extract": "Extract optical flow and landmarks from videos",
    "dynamics predict": "Score facial dynamics in videos and frames",
    "dynamics import-blendshapes": "Import the weights of MediaPipe's blendshape network",
    "dynamics serve": "Serve a facial dynamics model over HTTP",
    "mlflow sync": "Send MLflow what was logged while it was down",
    "promote": "Point an alias, such as champion, to a version of a registered model",
    "serve": "Serve an expression classifier over HTTP",
    "keys new": "Make an API key for a server, with scopes and a rate",
    "cluster": "Start and stop a Ray cluster on this machine, or join one",
    "submit": "Run a command as a job on a cluster",
    "jobs": "List the jobs of a cluster; their logs; stop and resume them",
}
PLUGINS = "fer.commands"
"""Entry-point group of commands of other packages; each names a module with a ``Config`` and a ``main``."""

RECIPES = Path(__file__).parent / "recipes"


class Subcommand(NamedTuple):
    """A command below another one, such as `fer ferbench run`."""

    summary: str
    Config: type[Options]
    main: Callable[..., None]


class Command(NamedTuple):
    """What one command line runs."""

    name: str
    config: type[Options]
    main: Callable[..., None]
    arguments: list[str]
    recipes: Path
    """Folder of its recipes, which may not exist."""


def find_command(job: str, argv: Sequence[str]) -> Command | str:
    """The command ``fer JOB ARGV``, or a text of help if ``argv`` does not name one of its subcommands.

    A job with subcommands maps their names to a config and a `main` in ``SUBCOMMANDS``. The module of a job of two
    words, such as `dynamics extract`, is `jobs.dynamics_extract`. Raises UserError for an unknown command.
    """
    if job not in JOBS and job not in (known := all_commands()):
        raise UserError(f"unknown command {job!r}; choose from {', '.join(known)}")
    module: Any = _module(job)
    subcommands: Mapping[str, Subcommand] = getattr(module, "SUBCOMMANDS", {})
    if not subcommands:
        return Command(job, module.Config, module.main, list(argv), RECIPES / job)
    if not argv or argv[0] in ("-h", "--help"):
        summaries = {name: subcommand.summary for name, subcommand in subcommands.items()}
        return usage(f"fer {job}", module.__doc__ or "", summaries)
    if argv[0] not in subcommands:
        raise UserError(f"unknown command {argv[0]!r}; choose from {', '.join(subcommands)}")
    found = subcommands[argv[0]]
    return Command(f"{job} {argv[0]}", found.Config, found.main, list(argv[1:]), RECIPES / job)


def split_job(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The job that a command line starts with, of one word or two, and the rest."""
    two_words = " ".join(argv[:2])
    job = two_words if two_words in JOBS else argv[0]
    return job, list(argv[len(job.split()) :])


def all_commands() -> dict[str, str]:
    """Every command and its summary; for those of other packages, the module that they come from."""
    others = {name: f"from {module}" for name, module in installed(PLUGINS).items()}
    return JOBS | others | JOBS  # Ferry's first, and never replaced


def _module(job: str) -> ModuleType:
    if job in JOBS:
        return import_module(f"jobs.{re.sub(r'[ -]', '_', job)}")
    return import_object(installed(PLUGINS)[job], "entry point")


def usage(
    program: str = "fer", purpose: str = "Facial expression recognition on Ray.", commands: Mapping[str, str] = JOBS
) -> str:
    """The help text that lists the commands."""
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
            f"`{program} COMMAND --help` shows the command's options with their meanings, units and defaults.",
        ]
    )
