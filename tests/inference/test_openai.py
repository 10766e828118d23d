"""The OpenAI client over a real HTTP connection: bounded, rate-limited, retried, and precise about rejections."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from typing import Any

import numpy as np
import pytest

from fer.data.images import encode_png
from fer.data.vqa.questions import Turn
from fer.errors import UserError
from fer.inference import openai
from fer.inference.base import Request, Response, SamplingParams
from fer.inference.openai import OpenAIClient, RateLimiter
from tests.waiting import until

IMAGE = encode_png(np.zeros((28, 28, 3), np.uint8))
GREEDY = SamplingParams(temperature=0, max_new_tokens=64)


def prompt_of(request: dict[str, Any]) -> str:
    return request["messages"][-1]["content"][-1]["text"]


def requests(count: int) -> deque[tuple[int, Request]]:
    return deque((number, Request(IMAGE, f"prompt {number}")) for number in range(count))


def test_every_request_gets_its_own_response_within_the_concurrency_limit(chat_server) -> None:  # type: ignore[no-untyped-def]
    def script(request: dict[str, Any]) -> str:
        until(lambda: server.max_running >= 2)
        time.sleep(0.02)
        return prompt_of(request).replace("prompt", "response")

    server = chat_server(script)
    responses = dict(OpenAIClient(server.url, "m", concurrency=4).stream(requests(40), GREEDY))
    assert {number: response.text for number, response in responses.items()} == {n: f"response {n}" for n in range(40)}
    assert responses[0] == Response("response 0", 80, 5)
    assert server.max_running <= 4


def test_follow_ups_appended_while_streaming_carry_their_history(chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(prompt_of)
    pending = requests(6)
    found = []
    for number, response in OpenAIClient(server.url, "m", concurrency=3).stream(pending, GREEDY):
        found.append((number, response.text))
        if number < 6:
            history = (Turn(f"q{number}", response.text),)
            pending.append((number + 6, Request(IMAGE, f"and then {number}?", history)))
    assert sorted(found) == [(n, f"prompt {n}" if n < 6 else f"and then {n - 6}?") for n in range(12)]
    second = next(request for request in server.requests if prompt_of(request) == "and then 2?")
    roles = [message["role"] for message in second["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert [part["type"] for part in second["messages"][0]["content"]] == ["image_url", "text"]
    assert second["messages"][1]["content"] == "prompt 2"


@pytest.mark.slow
def test_requests_to_a_busy_endpoint_are_retried(chat_server) -> None:  # type: ignore[no-untyped-def]
    failures = iter([503, 429, 500])
    lock = threading.Lock()

    def script(request: dict[str, Any]) -> str | int:
        with lock:
            return next(failures, "fear")

    assert OpenAIClient(chat_server(script).url, "m", concurrency=1)([Request(IMAGE, "?")], GREEDY) == ["fear"]


def test_a_single_rejected_request_yields_an_error_response(chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: 400 if prompt_of(request).endswith(" 3") else "fear")
    responses = dict(OpenAIClient(server.url, "m", concurrency=2).stream(requests(8), GREEDY))
    assert [number for number, response in responses.items() if response.error] == [3]
    assert "rejected with status 400" in str(responses[3].error)
    assert "rejected by the script" in str(responses[3].error)


def test_a_response_without_a_choice_is_an_error_response(chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: None if prompt_of(request).endswith(" 3") else "fear")
    responses = dict(OpenAIClient(server.url, "m", concurrency=2).stream(requests(8), GREEDY))
    assert {number: response.error for number, response in responses.items() if response.error} == {
        3: "the endpoint sent no response"
    }


def test_an_endpoint_that_rejects_everything_stops_the_stream(chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: 400)
    with pytest.raises(UserError, match="rejected by the script"):
        dict(OpenAIClient(server.url, "m", concurrency=2).stream(requests(100), GREEDY))
    assert len(server.requests) < 20


def test_rejections_are_counted_over_all_streams_of_a_client(chat_server) -> None:  # type: ignore[no-untyped-def]
    client = OpenAIClient(chat_server(lambda request: 400).url, "m", concurrency=2)
    dict(client.stream(requests(openai.MAX_INITIAL_REJECTIONS - 1), GREEDY))
    with pytest.raises(UserError, match="rejected by the script"):
        dict(client.stream(requests(1), GREEDY))


def test_responses_before_an_endpoint_failure_are_yielded(chat_server, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(openai, "MAX_RETRIES", 0)
    lock = threading.Lock()
    remaining = [10]

    def script(request: dict[str, Any]) -> str | int:
        with lock:
            remaining[0] -= 1
            return "fear" if remaining[0] >= 0 else 500

    found: list[tuple[int, Response]] = []
    with pytest.raises(UserError, match="500"):
        found.extend(OpenAIClient(chat_server(script).url, "m", concurrency=4).stream(requests(100), GREEDY))
    assert len(found) == 10


def test_guided_decoding_uses_structured_output(chat_server) -> None:  # type: ignore[no-untyped-def]
    server = chat_server(lambda request: '{"answer": "fear"}')
    OpenAIClient(server.url, "m", 1)([Request(IMAGE, "?", labels=("fear", "anger"))], SamplingParams(0, 8, guided=True))
    OpenAIClient(server.url, "m", 1)([Request(IMAGE, "?", labels=("fear", "anger"))], GREEDY)
    schema = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["answer"]["enum"] == ["fear", "anger"]
    assert "response_format" not in server.requests[1]
    assert json.dumps(server.requests[1]["temperature"]) in ("0", "0.0")


def test_the_rate_limiter_spaces_calls_evenly() -> None:
    limiter = RateLimiter(per_minute=1200)
    started = time.monotonic()
    threads = [threading.Thread(target=limiter.wait) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.39 < time.monotonic() - started < 20
    unlimited = RateLimiter(0)
    started = time.monotonic()
    for _ in range(1000):
        unlimited.wait()
    assert time.monotonic() - started < 5
