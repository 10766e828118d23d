"""Answers with reasons from a teacher model, kept only if they name the right label (rejection sampling).

This is how sets such as UniFER-CoT are made: the label checks the answer, and the reasoning comes with it. Kept rows
and thrown-away faces are written as they come, so that the same command goes on where it was stopped and asks nothing
twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from fer.answers import answers_rightly, tagged_answer, well_formed
from fer.data.schema import FaceRow
from fer.data.stream.prefetch import load_image
from fer.data.vqa.options import QuestionsConfig
from fer.data.vqa.prompts import ferbench_prompt
from fer.errors import BadRow
from fer.inference.base import Answerer, Ask, Sampling
from fer.inference.openai import Endpoint
from fer.inference.vllm import Engine
from fer.labels import LabelSpace


def teach(config: QuestionsConfig, space: LabelSpace, rows: Iterator[FaceRow]) -> tuple[int, int]:
    """Ask the teacher about each face; how many are kept in ``out``, and how many thrown away, over all sessions."""
    kept, thrown = (_finished(Path(path)) for path in (config.out, config.rejected))
    left = (row for row in rows if row.path not in kept and row.path not in thrown)
    if kept or thrown:
        print(f"going on: {len(kept):,} kept and {len(thrown):,} thrown away before", flush=True)
    counts = [len(kept), len(thrown)]
    answerer: Answerer | None = None
    with open(config.out, "a", encoding="utf-8") as good, open(config.rejected, "a", encoding="utf-8") as bad:
        while chunk := list(islice(left, config.concurrency)):
            answerer = answerer or _answerer(config)
            for row, answer, reason in ask(chunk, answerer, config, space):
                counts[answer is None] += 1
                if answer is None:
                    _write(bad, {"image_path": row.path, "label": row.label, "reason": reason})
                else:
                    question = ferbench_prompt(space.labels)
                    _write(good, {"image_path": row.path, "question": question, "response": answer})
            print(f"kept {counts[0]:,}, thrown away {counts[1]:,}", flush=True)
    return counts[0], counts[1]


def ask(
    rows: list[FaceRow], answerer: Answerer, config: QuestionsConfig, space: LabelSpace
) -> Iterator[tuple[FaceRow, str | None, str]]:
    """Each face with its first right answer, or with None and what was wrong with the last one."""
    prompt = ferbench_prompt(space.labels)
    images = [load_image(row.read) for row in rows]
    answers: list[str | None] = [None] * len(rows)
    reasons = [str(image) if isinstance(image, BadRow) else "" for image in images]
    for attempt in range(config.attempts):
        open_ = [i for i, answer in enumerate(answers) if answer is None and not isinstance(images[i], BadRow)]
        if not open_:
            break
        sampling = Sampling(config.temperature, config.new_tokens, config.split_seed + attempt * len(rows))
        said = answerer([Ask(images[i], prompt) for i in open_], sampling)  # type: ignore[arg-type]
        for i, text in zip(open_, said, strict=True):
            text = text.strip()
            reasons[i] = _fault(text, str(rows[i].label))
            answers[i] = None if reasons[i] else text
    return zip(rows, answers, reasons, strict=True)


def _fault(text: str, label: str) -> str:
    if not well_formed(text):
        return f"not of the form <think>...</think><answer>...</answer>: {text[:200]!r}"
    return "" if answers_rightly(text, label) else f"answered {tagged_answer(text)!r}"


def _answerer(config: QuestionsConfig) -> Answerer:
    assert config.teacher is not None
    if config.endpoint:
        return Endpoint(config.endpoint, config.teacher, config.concurrency)
    return Engine(config.teacher, trust_remote_code=config.trust_remote_code)


def _finished(path: Path) -> set[str]:
    """The faces that a file has; a line that a stopped session left unfinished is cut off."""
    if not path.exists():
        return set()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    return {json.loads(line)["image_path"] for line in whole.splitlines()}


def _write(file: IO[str], row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()
