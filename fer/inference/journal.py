"""Answers on disk as they come: append-only JSON lines, one file for each session of each engine.

A file's first line says when its engine was ready; each further one holds an answer, or the reason why there is none.
A line that a killed session left unfinished is not read, so that its question is asked again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Part:
    """One session's file, written line by line."""

    def __init__(self, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl").open("x", encoding="utf-8")
        self._write(started=time.time(), device=device)

    def answer(self, key: str, responses: Sequence[str], prompt_tokens: int, answer_tokens: int) -> None:
        """Keep the answers of all turns of a question."""
        self._write(
            key=key, responses=responses, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens, at=time.time()
        )

    def error(self, key: str, reason: str) -> None:
        """Keep the reason why a question has no answer."""
        self._write(key=key, error=reason, at=time.time())

    def close(self) -> None:
        self._file.close()

    def _write(self, **entry: Any) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()


@dataclass
class Usage:
    """What the answers of all sessions together took."""

    answers: int = 0
    engine_seconds: float = 0.0
    """Summed over engines, from when each was ready to its last answer."""
    prompt_tokens: int = 0
    answer_tokens: int = 0


def read_parts(folder: Path) -> tuple[dict[str, dict[str, Any]], Usage]:
    """The line of every question that any session answered or failed to, by its key, and what they took.

    An answer counts more than an error, the first answer more than a later one.
    """
    found: dict[str, dict[str, Any]] = {}
    usage = Usage()
    for file in sorted(folder.glob("*.jsonl")):
        lines = [json.loads(line) for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        for line in lines[1:]:
            if line["key"] not in found or "error" in found[line["key"]]:
                found[line["key"]] = line
            if "error" not in line:
                usage.answers += 1
                usage.prompt_tokens += line["prompt_tokens"]
                usage.answer_tokens += line["answer_tokens"]
        if len(lines) > 1:
            usage.engine_seconds += lines[-1]["at"] - lines[0]["started"]
    return found, usage
