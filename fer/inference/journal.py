"""Append-only journals of responses: JSON lines, in files of their own for each client.

The first line of a file holds the time at which the client was ready and the device. Every further line holds the
responses to one item, or its error. A line that a killed session left incomplete is ignored, so that its item runs
again. Objects of an object store can't grow, so a client writes a new one every few seconds, and loses those seconds if
it is killed.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from fer.storage import is_uri, open_path

if TYPE_CHECKING:
    from pathlib import Path

    from upath import UPath

UPLOAD_SECONDS = 5
"""How long an object takes lines until it is written."""


class JournalWriter:
    """Appends to a file in ``folder``, a path or URI, and flushes after every line. After `close`, to another one."""

    def __init__(self, folder: str, device: str) -> None:
        self._folder, self._device, self._uploads = open_path(folder), device, is_uri(folder)
        self._file: TextIO | None = None
        self._last = time.time()

    def write_responses(self, key: str, responses: Sequence[str], prompt_tokens: int, completion_tokens: int) -> None:
        """Record the responses to all turns of an item, with the tokens of all turns together."""
        tokens = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        self._write(key=key, responses=responses, **tokens, time=time.time())

    def write_error(self, key: str, error: str) -> None:
        """Record why an item has no response."""
        self._write(key=key, error=error, time=time.time())

    def close(self) -> None:
        """Make sure that all lines are in the storage."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, **entry: Any) -> None:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
            self._file = (self._folder / name).open("w", encoding="utf-8")
            self._opened = time.monotonic()
            self._append(started=self._last, device=self._device)
        self._append(**entry)
        self._last = entry["time"]
        if self._uploads and time.monotonic() > self._opened + UPLOAD_SECONDS:
            self.close()

    def _append(self, **entry: Any) -> None:
        assert self._file is not None
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


def read_journal(folder: Path | UPath) -> tuple[dict[str, dict[str, Any]], Usage]:
    """The entry of every item in any session's file, by key, and the usage of all sessions.

    If an item has several entries, responses take precedence over errors, and earlier responses over later ones.
    """
    entries: dict[str, dict[str, Any]] = {}
    usage = Usage()
    files: list[Any] = sorted(folder.glob("*.jsonl"), key=str)
    for file in files:
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
