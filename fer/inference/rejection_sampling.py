"""Rejection sampling: responses with reasoning from a teacher model, kept only if they name the right label.

Data sets such as UniFER-CoT are made this way. Accepted rows and rejected faces are written as they come, so that the
same command continues a stopped run without repeating a request.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from fer.answers import extract_answer, is_correct, well_formed
from fer.data.schema import FaceRow
from fer.data.stream.prefetch import read_verified
from fer.data.vqa.options import QuestionsConfig
from fer.data.vqa.prompts import ferbench_prompt
from fer.errors import BadRow
from fer.inference.base import InferenceClient, Request, SamplingParams
from fer.inference.openai import OpenAIClient
from fer.inference.vllm import VllmClient
from fer.labels import LabelSpace


def sample_from_teacher(config: QuestionsConfig, space: LabelSpace, rows: Iterator[FaceRow]) -> tuple[int, int]:
    """Write accepted rows to ``config.out`` and rejected faces to ``config.rejected``.

    Returns how many were accepted and rejected, including those of earlier runs of the same command.
    """
    accepted, rejected = (_completed(Path(path)) for path in (config.out, config.rejected))
    remaining: Iterator[FaceRow] = (row for row in rows if row.path not in accepted and row.path not in rejected)
    if accepted or rejected:
        print(f"continuing after {len(accepted):,} accepted and {len(rejected):,} rejected faces", flush=True)
    counts = [len(accepted), len(rejected)]
    first = next(remaining, None)
    if first is None:
        return counts[0], counts[1]
    client = _open_teacher(config)
    remaining = chain([first], remaining)
    prompt = ferbench_prompt(space.labels)
    Path(config.out).parent.mkdir(parents=True, exist_ok=True)
    with open(config.out, "a", encoding="utf-8") as good, open(config.rejected, "a", encoding="utf-8") as bad:
        while chunk := list(islice(remaining, client.max_running)):
            for row, response, reason in sample_chunk(chunk, client, config, prompt):
                counts[response is None] += 1
                if response is None:
                    _write(bad, {"image_path": row.path, "label": row.label, "reason": reason})
                else:
                    _write(good, {"image_path": row.path, "question": prompt, "response": response})
            print(f"accepted {counts[0]:,}, rejected {counts[1]:,}", flush=True)
    return counts[0], counts[1]


def sample_chunk(
    rows: list[FaceRow], client: InferenceClient, config: QuestionsConfig, prompt: str
) -> Iterator[tuple[FaceRow, str | None, str]]:
    """Each face with its first correct response, or with None and why the last request or response was rejected.

    Raises UserError if the teacher can't be reached, or rejects everything.
    """
    images = [read_verified(row.read) for row in rows]
    accepted: list[str | None] = [None] * len(rows)
    reasons = [str(image) if isinstance(image, BadRow) else "" for image in images]
    for attempt in range(config.attempts):
        remaining = [i for i, text in enumerate(accepted) if text is None and not isinstance(images[i], BadRow)]
        if not remaining:
            break
        sampling = SamplingParams(config.temperature, config.max_new_tokens, config.split_seed + attempt * len(rows))
        requests = [Request(images[i], prompt) for i in remaining]  # type: ignore[arg-type]
        for number, response in client.stream(deque(enumerate(requests)), sampling):
            i, text = remaining[number], response.text.strip()
            reasons[i] = response.error or _rejection_reason(text, str(rows[i].label))
            accepted[i] = None if reasons[i] else text
    return zip(rows, accepted, reasons, strict=True)


def _rejection_reason(text: str, label: str) -> str:
    """Empty for a correct response."""
    if not well_formed(text):
        return f"not of the form <think>...</think><answer>...</answer>: {text[:200]!r}"
    return "" if is_correct(text, label) else f"answered {extract_answer(text)!r}"


def _open_teacher(config: QuestionsConfig) -> InferenceClient:
    assert config.teacher is not None
    if config.endpoint:
        return OpenAIClient(config.endpoint, config.teacher, config.concurrency)
    return VllmClient(config.teacher, trust_remote_code=config.trust_remote_code)


def _completed(path: Path) -> set[str]:
    """Image paths in a file of an earlier run; an incomplete last line is removed."""
    if not path.exists():
        return set()
    data = path.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if len(complete) < len(data):
        path.write_bytes(complete)
    return {json.loads(line)["image_path"] for line in complete.splitlines()}


def _write(file: IO[str], row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()
