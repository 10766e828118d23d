"""The command line that runs a job with a given config: `fer train --lr 0.001 ...`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from fer.options import Options
from fer.training.options import ExperimentOptions

LEFT_OUT = {*ExperimentOptions.model_fields, "threads", "resume"}
"""Options that belong to a run and not to what is trained."""


def command_line(job: str, config: Options, name: str) -> str:
    """`fer JOB` with every option of ``config`` that differs from its default, and ``--name``."""
    return " ".join(["fer", job, *(shlex.quote(word) for word in arguments(config)), "--name", shlex.quote(name)])


def arguments(config: Options) -> Iterator[str]:
    """The options that differ from their defaults, as command line arguments."""
    for name, value in _changed(config):
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            yield flag if value else f"--no-{flag.removeprefix('--')}"
        elif isinstance(value, dict | list):
            yield from (flag, json.dumps(value))
        else:
            yield from (flag, str(value))


def _changed(config: Options, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names (of nested groups: ``group.name``) and values of the options that differ from their defaults."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if not prefix and name in LEFT_OUT:
            continue
        if isinstance(value, Options):
            yield from _changed(value, f"{prefix}{name}.")
        elif field.is_required() or value != field.get_default(call_default_factory=True):
            yield f"{prefix}{name}", value
