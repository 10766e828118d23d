"""Rejection sampling from a teacher, over a real HTTP connection to a server that speaks OpenAI's protocol."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fer.answers import answers_rightly, well_formed
from fer.data.images import check_image
from fer.data.vqa.build import faces
from fer.data.vqa.options import QuestionsConfig
from fer.errors import UserError
from fer.inference.teacher import teach
from jobs import questions as job


class Teacher(ThreadingHTTPServer):
    """Always sees fear; every second answer lacks its reasoning; busy at its first request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Teacher = self.server  # type: ignore[assignment]
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.guard:
            server.requests.append(request)
            number = len(server.requests)
        if number == 1:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        said = "<answer>fear</answer>" if number % 2 else "<think>Wide eyes.</think><answer>fear</answer>"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "t", "choices": [choice]}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def teacher() -> Iterator[Teacher]:
    with Teacher() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_right_and_well_formed_answers_are_kept_the_rest_is_counted(
    teacher: Teacher, face_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cot.jsonl"
    config = QuestionsConfig(
        data=str(face_folder), out=str(out), split="all", val_split=0, limit=28,
        teacher="seer", endpoint=teacher.url, attempts=5, concurrency=4,
    )  # fmt: skip
    job.main(config)
    kept, thrown = lines(out), lines(tmp_path / "cot.rejected.jsonl")
    labels = {row["image_path"]: row["label"] for row in thrown}
    assert len(kept) + len(thrown) == 28
    assert kept
    assert all(well_formed(row["response"]) and answers_rightly(row["response"], "fear") for row in kept)
    assert all("/fear/" in row["image_path"] for row in kept)
    assert set(labels.values()) == {"anger", "disgust", "happiness", "neutral", "sadness", "surprise"} or "fear" in (
        labels.values()
    )
    assert all("fear" in row["reason"] for row in thrown)
    assert f"Kept {len(kept)} of 28 faces" in capsys.readouterr().out

    asked = len(teacher.requests)
    job.main(config)
    assert len(teacher.requests) == asked, "a finished set asks nothing twice"

    url = teacher.requests[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")
    assert check_image(base64.b64decode(url.partition(",")[2])) == (48, 48)


def test_a_stopped_session_goes_on_with_the_faces_that_are_left(
    teacher: Teacher, face_folder: Path, tmp_path: Path
) -> None:
    config = QuestionsConfig(
        data=str(face_folder), out=str(tmp_path / "cot.jsonl"), split="all", val_split=0, limit=28,
        teacher="seer", endpoint=teacher.url, attempts=1, concurrency=4,
    )  # fmt: skip
    space, rows = faces(config)
    first = [row for row, _ in zip(rows, range(10), strict=False)]
    assert sum(teach(config, space, iter(first))) == 10
    with (tmp_path / "cot.rejected.jsonl").open("a") as file:
        file.write('{"image_path": "cut in mid-')
    space, rows = faces(config)
    assert sum(teach(config, space, rows)) == 28
    paths = [row["image_path"] for name in ("cot", "cot.rejected") for row in lines(tmp_path / f"{name}.jsonl")]
    assert len(paths) == len(set(paths)) == 28


def test_an_endpoint_that_is_not_there_is_one_line(face_folder: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("fer.inference.base.ENDPOINT_RETRIES", 0)
    config = QuestionsConfig(
        data=str(face_folder), out=str(tmp_path / "x.jsonl"), teacher="seer", endpoint="http://127.0.0.1:9/v1"
    )
    with pytest.raises(UserError, match="can't be reached"):
        job.main(config)
