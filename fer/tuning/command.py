"""The command that does what a trial did."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from fer.options import Options
from fer.training.options import ExperimentOptions

LEFT_OUT = {*ExperimentOptions.model_fields, "threads", "resume"}


def command(job: str, config: Options, name: str) -> str:
    """`fer JOB` with every option that is not at its default, and a name of its own."""
    return " ".join(["fer", job, *(shlex.quote(word) for word in flags(config)), "--name", shlex.quote(name)])


def flags(config: Options) -> Iterator[str]:
    """The options that differ from their defaults, as words of a command line."""
    for name, value in _changed(config):
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            yield flag if value else f"--no-{flag.removeprefix('--')}"
        elif isinstance(value, dict | list):
            yield from (flag, json.dumps(value))
        else:
            yield from (flag, str(value))


def _changed(config: Options, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if not prefix and name in LEFT_OUT:
            continue
        if isinstance(value, Options):
            yield from _changed(value, f"{prefix}{name}.")
        elif field.is_required() or value != field.get_default(call_default_factory=True):
            yield f"{prefix}{name}", value
