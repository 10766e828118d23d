"""The report of all parts: one JSON file, and one table in Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.parts import PARTS

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LOG_LINES = 15
"""Lines of a failed part's log that the report shows."""


@dataclass(frozen=True)
class Outcome:
    """What a part has measured, how long it took, and why it failed, if it did."""

    figures: Mapping[str, Any]
    seconds: float
    error: str | None
    log: Path

    def summary(self) -> str:
        """In one line."""
        done = "; ".join(f"{name} {show(value)}" for name, value in self.figures.items())
        return f"{done or 'no figures'} ({self.seconds:.0f} s)" + (f"; FAILED: {self.error}" if self.error else "")


def show(value: Any) -> str:
    """A figure with at most four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_report(outcomes: Mapping[str, Outcome], machine: Machine, out: Path) -> None:
    """Write ``report.json`` and ``report.md``."""
    values = {
        name: {
            "figures": dict(outcome.figures),
            "seconds": outcome.seconds,
            "error": outcome.error,
            "log": outcome.log.name,
        }
        for name, outcome in outcomes.items()
    }
    (out / "report.json").write_text(json.dumps({"gpus": machine.gpus, "parts": values}, indent=2) + "\n")
    (out / "report.md").write_text(to_markdown(outcomes, machine))


def to_markdown(outcomes: Mapping[str, Outcome], machine: Machine) -> str:
    """The table, and the last lines of the log of each part that failed."""
    where = (
        f"{machine.gpus} GPU(s) of {machine.memory / 1e9:.0f} GB."
        if machine.gpus
        else "No GPU: tiny models on CPUs. It says that the parts run, and nothing about their speed on a GPU."
    )
    lines = [where, ""]
    lines += ["| part | what ran | figures | seconds | |", "|---|---|---|---|---|"]
    for name, outcome in outcomes.items():
        figures = "<br>".join(f"{key}: {show(value)}" for key, value in outcome.figures.items())
        verdict = f"**failed**: {outcome.error}" if outcome.error else "passed"
        lines.append(f"| {name} | {PARTS[name].what} | {figures} | {outcome.seconds:.0f} | {verdict} |")
    for name, outcome in outcomes.items():
        if outcome.error:
            last = COLOURS.sub("", outcome.log.read_text(errors="replace")).splitlines()[-LOG_LINES:]
            lines += ["", f"**{name}** failed: {outcome.error}. The end of `{outcome.log.name}`:", ""]
            lines += ["```text", *last, "```"]
    return "\n".join(lines) + "\n"
