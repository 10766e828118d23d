"""Append-only journals of responses: JSON lines, one file per session of each client.

The first line of a file holds the time at which the client was ready and the device. Every further line holds the
responses to one item, or its error. A line that a killed session left incomplete is ignored, so that its item runs
again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class JournalWriter:
    """Appends to one session's file and flushes after every line."""

    def __init__(self, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl").open("x", encoding="utf-8")
        self._write(started=time.time(), device=device)

    def write_responses(self, key: str, responses: Sequence[str], prompt_tokens: int, completion_tokens: int) -> None:
        """Record the responses to all turns of an item, with the tokens of all turns together."""
        tokens = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        self._write(key=key, responses=responses, **tokens, time=time.time())

    def write_error(self, key: str, error: str) -> None:
        """Record why an item has no response."""
        self._write(key=key, error=error, time=time.time())

    def close(self) -> None:
        self._file.close()

    def _write(self, **entry: Any) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()


@dataclass
class Usage:
    """Totals over all sessions."""

    responses: int = 0
    engine_seconds: float = 0.0
    """Summed over clients, from the time each was ready to its last response."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def read_journal(folder: Path) -> tuple[dict[str, dict[str, Any]], Usage]:
    """The entry of every item in any session's file, by key, and the usage of all sessions.

    If an item has several entries, responses take precedence over errors, and earlier responses over later ones.
    """
    entries: dict[str, dict[str, Any]] = {}
    usage = Usage()
    for file in sorted(folder.glob("*.jsonl")):
        lines = [json.loads(line) for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        for entry in lines[1:]:
            if entry["key"] not in entries or "error" in entries[entry["key"]]:
                entries[entry["key"]] = entry
            if "error" not in entry:
                usage.responses += 1
                usage.prompt_tokens += entry["prompt_tokens"]
                usage.completion_tokens += entry["completion_tokens"]
        if len(lines) > 1:
            usage.engine_seconds += lines[-1]["time"] - lines[0]["started"]
    return entries, usage
