"""`fer JOB`: one command per job. `python -m jobs.JOB` is equivalent."""

from __future__ import annotations

import atexit
import gc
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from fer import __version__
from fer.errors import UserError
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
    "promote": "Point an alias, such as champion, to a version of a registered model",
    "serve": "Serve an expression classifier over HTTP",
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
        print(f"fer: unknown command {job!r}; choose from {', '.join(known)}", file=sys.stderr)
        return 2
    return run_job(job, argv[len(job.split()) :])


def run_job(job: str, argv: Sequence[str] | None = None) -> int:
    """Parse the job's config, run its `main` and return the exit code; a UserError prints one line and returns 2.

    A job with subcommands (`fer ferbench run`) maps their names to a config and a `main` in ``SUBCOMMANDS``. The module
    of a job of two words, such as `dynamics extract`, is `jobs.dynamics_extract`.
    """
    from fer.options import parse

    _collect_less_garbage()
    argv = list(sys.argv[1:] if argv is None else argv)
    command, recipes = job, RECIPES / job
    try:
        module: Any = _module(job)
        subcommands = getattr(module, "SUBCOMMANDS", None)
        if subcommands:
            if not argv or argv[0] in ("-h", "--help"):
                summaries = {name: subcommand.summary for name, subcommand in subcommands.items()}
                print(usage(f"fer {job}", module.__doc__ or "", summaries))
                return 0
            if argv[0] not in subcommands:
                raise UserError(f"unknown command {argv[0]!r}; choose from {', '.join(subcommands)}")
            command, module = f"{job} {argv[0]}", subcommands[argv.pop(0)]
        config = parse(module.Config, argv, command, recipes)
        module.main(config)
    except UserError as error:
        print(f"fer {command}: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if "ray" in sys.modules:
            from cluster.logs import log_file

            if log := log_file():
                error.add_note(f"Ray's log: {log}")
        raise
    except KeyboardInterrupt:
        print(f"fer {command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _collect_less_garbage() -> None:
    """Modules are no garbage: looking for some during imports and at exit took a third of a short command's time."""
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)


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


if __name__ == "__main__":
    sys.exit(main())
