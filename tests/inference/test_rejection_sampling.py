"""Rejection sampling from a teacher behind an OpenAI-compatible server."""

from __future__ import annotations

import base64
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fer.answers import is_correct, well_formed
from fer.data.images import check_header
from fer.data.vqa.build import load_faces
from fer.data.vqa.options import QuestionsConfig
from fer.errors import UserError
from fer.inference import rejection_sampling
from fer.inference.base import InferenceClient, Request, Response, SamplingParams
from fer.inference.rejection_sampling import sample_from_teacher
from jobs import questions as job


@pytest.fixture
def teacher(chat_server: Callable[..., Any]) -> Any:
    """Always sees fear; every second response lacks its reasoning; busy at its first request."""
    numbers = itertools.count(1)

    def script(request: dict[str, Any]) -> str | int:
        number = next(numbers)
        if number == 1:
            return 503
        return "<answer>fear</answer>" if number % 2 else "<think>Wide eyes.</think><answer>fear</answer>"

    return chat_server(script)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_correct_well_formed_responses_are_accepted_and_the_rest_rejected(
    teacher: Any, face_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cot.jsonl"
    config = QuestionsConfig(
        data=str(face_folder), out=str(out), split="all", val_split=0, limit=28,
        teacher="seer", endpoint=teacher.url, attempts=5, concurrency=4,
    )  # fmt: skip
    job.main(config)
    accepted, rejected = lines(out), lines(tmp_path / "cot.rejected.jsonl")
    labels = {row["image_path"]: row["label"] for row in rejected}
    assert len(accepted) + len(rejected) == 28
    assert accepted
    assert all(well_formed(row["response"]) and is_correct(row["response"], "fear") for row in accepted)
    assert all("/fear/" in row["image_path"] for row in accepted)
    assert set(labels.values()) == {"anger", "disgust", "happiness", "neutral", "sadness", "surprise"} or "fear" in (
        labels.values()
    )
    assert all("fear" in row["reason"] for row in rejected)
    assert f"Accepted {len(accepted)} of 28 faces" in capsys.readouterr().out

    count = len(teacher.requests)
    job.main(config)
    assert len(teacher.requests) == count, "a finished set sends no request twice"

    url = teacher.requests[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")
    assert check_header(base64.b64decode(url.partition(",")[2])) == (48, 48)


def test_a_stopped_run_continues_with_the_remaining_faces(teacher: Any, face_folder: Path, tmp_path: Path) -> None:
    config = QuestionsConfig(
        data=str(face_folder), out=str(tmp_path / "cot.jsonl"), split="all", val_split=0, limit=28,
        teacher="seer", endpoint=teacher.url, attempts=1, concurrency=4,
    )  # fmt: skip
    space, rows = load_faces(config)
    first = [row for row, _ in zip(rows, range(10), strict=False)]
    assert sum(sample_from_teacher(config, space, iter(first))) == 10
    with (tmp_path / "cot.rejected.jsonl").open("a") as file:
        file.write('{"image_path": "cut in mid-')
    space, rows = load_faces(config)
    assert sum(sample_from_teacher(config, space, rows)) == 28
    paths = [row["image_path"] for name in ("cot", "cot.rejected") for row in lines(tmp_path / f"{name}.jsonl")]
    assert len(paths) == len(set(paths)) == 28


def test_a_chunk_fills_the_teacher(face_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever --concurrency says about an endpoint: an engine in this process batches as many as it can."""
    waiting = []

    class Engine(InferenceClient):
        max_running = 20

        def stream(
            self, pending: deque[tuple[int, Request]], sampling: SamplingParams
        ) -> Iterator[tuple[int, Response]]:
            waiting.append(len(pending))
            for number, _ in pending:
                yield number, Response("<think>Wide eyes.</think><answer>fear</answer>")

    monkeypatch.setattr(rejection_sampling, "_open_teacher", lambda config: Engine())
    config = QuestionsConfig(
        data=str(face_folder), out=str(tmp_path / "cot.jsonl"), split="all", val_split=0, limit=28,
        teacher="seer", attempts=1, concurrency=4,
    )  # fmt: skip
    job.main(config)
    assert waiting == [20, 8]


def test_a_face_that_the_teacher_refuses_is_rejected_with_its_reason(
    chat_server: Callable[..., Any], face_folder: Path, tmp_path: Path
) -> None:
    numbers = itertools.count(1)
    server = chat_server(
        lambda request: 400 if next(numbers) == 3 else "<think>Wide eyes.</think><answer>fear</answer>"
    )
    config = QuestionsConfig(
        data=str(face_folder), out=str(tmp_path / "cot.jsonl"), split="all", val_split=0, limit=28,
        teacher="seer", endpoint=server.url, attempts=1, concurrency=4,
    )  # fmt: skip
    job.main(config)
    accepted, rejected = lines(tmp_path / "cot.jsonl"), lines(tmp_path / "cot.rejected.jsonl")
    assert len(accepted) + len(rejected) == 28
    assert len([row for row in rejected if "rejected with status 400" in row["reason"]]) == 1


def test_an_unreachable_endpoint_is_a_one_line_error(face_folder: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("fer.inference.openai.MAX_RETRIES", 0)
    config = QuestionsConfig(
        data=str(face_folder), out=str(tmp_path / "x.jsonl"), teacher="seer", endpoint="http://127.0.0.1:9/v1"
    )
    with pytest.raises(UserError, match="can't be reached"):
        job.main(config)
