"""Asking over a real HTTP connection: bounded, paced, tried again, and precise about what is refused."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from typing import Any

import numpy as np
import pytest

from fer.data.images import encode_png
from fer.errors import UserError
from fer.inference import openai as asking
from fer.inference.base import Answer, Ask, Sampling
from fer.inference.openai import Endpoint, Pace

IMAGE = encode_png(np.zeros((28, 28, 3), np.uint8))
GREEDY = Sampling(temperature=0, tokens=64)


def prompt_of(request: dict[str, Any]) -> str:
    return request["messages"][-1]["content"][-1]["text"]


def questions(count: int) -> deque[tuple[int, Ask]]:
    return deque((number, Ask(IMAGE, f"question {number}")) for number in range(count))


def test_every_question_gets_its_own_answer_and_no_more_are_under_way_than_allowed(chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: time.sleep(0.02) or prompt_of(request).replace("question", "answer"))
    answers = dict(Endpoint(server.url, "m", concurrency=4).stream(questions(40), GREEDY))
    assert {number: answer.text for number, answer in answers.items()} == {n: f"answer {n}" for n in range(40)}
    assert answers[0] == Answer("answer 0", 80, 5)
    assert 2 <= server.most_under_way <= 4


def test_questions_that_are_added_on_the_way_are_answered_with_what_was_said_before(chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(prompt_of)
    pending = questions(6)
    found = []
    for number, answer in Endpoint(server.url, "m", concurrency=3).stream(pending, GREEDY):
        found.append((number, answer.text))
        if number < 6:
            pending.append((number + 6, Ask(IMAGE, f"and then {number}?", before=((f"q{number}", answer.text),))))
    assert sorted(found) == [(n, f"question {n}" if n < 6 else f"and then {n - 6}?") for n in range(12)]
    second = next(request for request in server.requests if prompt_of(request) == "and then 2?")
    roles = [message["role"] for message in second["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert [part["type"] for part in second["messages"][0]["content"]] == ["image_url", "text"]
    assert second["messages"][1]["content"] == "question 2"


def test_a_busy_endpoint_is_asked_again(chat_server) -> None:  # type: ignore[no-untyped-def]
    failures = iter([503, 429, 500])
    guard = threading.Lock()

    def script(request: dict[str, Any]) -> str | int:
        with guard:
            return next(failures, "fear")

    assert Endpoint(chat_server(script).url, "m", concurrency=1)([Ask(IMAGE, "?")], GREEDY) == ["fear"]


def test_one_question_that_is_refused_is_a_fault_of_that_question(chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: 400 if prompt_of(request).endswith(" 3") else "fear")
    answers = dict(Endpoint(server.url, "m", concurrency=2).stream(questions(8), GREEDY))
    assert [number for number, answer in answers.items() if answer.fault] == [3]
    assert "refused (400)" in str(answers[3].fault)
    assert "the script refuses" in str(answers[3].fault)


def test_an_endpoint_that_refuses_everything_stops_it(chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: 400)
    with pytest.raises(UserError, match="the script refuses"):
        dict(Endpoint(server.url, "m", concurrency=2).stream(questions(100), GREEDY))
    assert len(server.requests) < 20


def test_what_was_answered_before_the_endpoint_broke_is_there(chat_server, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(asking, "ENDPOINT_RETRIES", 0)
    guard = threading.Lock()
    left = [10]

    def script(request: dict[str, Any]) -> str | int:
        with guard:
            left[0] -= 1
            return "fear" if left[0] >= 0 else 500

    found: list[tuple[int, Answer]] = []
    with pytest.raises(UserError, match="500"):
        found.extend(Endpoint(chat_server(script).url, "m", concurrency=4).stream(questions(100), GREEDY))
    assert len(found) == 10


def test_guided_answers_are_asked_for_as_structured_output(chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: '{"answer": "fear"}')
    Endpoint(server.url, "m", 1)([Ask(IMAGE, "?", labels=("fear", "anger"))], Sampling(0, 8, guided=True))
    Endpoint(server.url, "m", 1)([Ask(IMAGE, "?", labels=("fear", "anger"))], GREEDY)
    schema = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["answer"]["enum"] == ["fear", "anger"]
    assert "response_format" not in server.requests[1]
    assert json.dumps(server.requests[1]["temperature"]) in ("0", "0.0")


def test_a_pace_lets_requests_through_evenly() -> None:
    pace = Pace(per_minute=1200)
    started = time.monotonic()
    threads = [threading.Thread(target=pace.wait) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.39 < time.monotonic() - started < 2
    free = Pace(0)
    started = time.monotonic()
    for _ in range(1000):
        free.wait()
    assert time.monotonic() - started < 0.5
