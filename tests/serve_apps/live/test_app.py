"""The WebSocket of live frames, on a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(start_live: Callable[..., str]) -> str:
    return start_live(max_connections=2, max_frame_bytes=200_000, idle_seconds=10)


@pytest.fixture(scope="module")
def frame(portrait: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(portrait, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.fixture
def stream(url: str, server_options: dict[str, Any]) -> Callable[..., Any]:
    """Opens a connection and sends the token, if there is one; other arguments are those of `connect`."""

    @contextmanager
    def open_stream(
        token: str | None = server_options["token"], model: str | None = None, **arguments: Any
    ) -> Iterator[ClientConnection]:
        query = f"?model={model}" if model else ""
        address = url.replace("http", "ws") + "/live/stream" + query
        with connect(address, open_timeout=60, **arguments) as socket:
            if token:
                socket.send(json.dumps({"token": token}))
            yield socket

    return open_stream


def test_a_frame_is_answered_as_over_http(
    stream: Callable[..., Any], url: str, frame: bytes, server_options: dict[str, Any]
) -> None:
    headers = {"Authorization": f"Bearer {server_options['token']}"}
    over_http = httpx.post(f"{url}/v1/predict", files={"files": frame}, headers=headers, timeout=60).json()
    with stream() as socket:
        socket.send(frame)
        answer = json.loads(socket.recv(timeout=60))
    assert answer["faces"] == over_http["images"][0]["faces"]
    assert answer["faces"][0]["label"] == "happy"
    assert answer["model"] == over_http["model"]
    assert (answer["frame"], answer["dropped"], answer["error"]) == (1, 0, None)
    assert answer["age"] > answer["timing"]["model"] > 0
    assert answer["age"] > answer["waited"] >= 0


def test_the_newest_frame_wins_and_the_others_are_counted(stream: Callable[..., Any], frame: bytes) -> None:
    sent = 60
    with stream() as socket:
        for _ in range(sent):
            socket.send(frame)
        answers = [json.loads(socket.recv(timeout=60))]
        while answers[-1]["frame"] < sent:
            answers.append(json.loads(socket.recv(timeout=60)))
    numbers = [answer["frame"] for answer in answers]
    assert numbers == sorted(set(numbers))
    assert answers[-1]["dropped"] == sent - len(answers) > 0


def test_a_frame_that_is_no_image_has_an_error_and_the_connection_goes_on(
    stream: Callable[..., Any], frame: bytes
) -> None:
    with stream() as socket:
        socket.send(b"no image")
        answer = json.loads(socket.recv(timeout=60))
        assert "not an image" in answer["error"]
        assert (answer["faces"], answer["model"]) == ([], None)
        socket.send(frame)
        assert len(json.loads(socket.recv(timeout=60))["faces"]) == 1


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [(b"x" * 200_001, 1009, "200001 bytes, more than 200000"), ("text", 1003, "binary"), (None, 1000, "idle")],
)
def test_a_broken_rule_ends_the_connection(
    stream: Callable[..., Any], message: bytes | str | None, code: int, reason: str
) -> None:
    with stream() as socket:
        if message is not None:
            socket.send(message)
        assert reason in closed(socket, code)


def test_the_token_is_needed(stream: Callable[..., Any], frame: bytes) -> None:
    with stream(token="a wrong token, long enough") as socket:
        assert "token" in closed(socket, 1008)
    with stream(token=None) as socket:
        socket.send(frame)
        assert "token" in closed(socket, 1008)


def test_keys_have_scopes_and_rates(stream: Callable[..., Any], frame: bytes, api_keys: dict[str, str]) -> None:
    with stream(token=api_keys["metadata"]) as socket:
        assert "not for 'live'" in closed(socket, 4403)
    with stream(token=api_keys["slow"]) as socket:
        socket.send(frame)
        assert json.loads(socket.recv(timeout=60))["faces"]
        socket.send(frame)
        with pytest.raises(TimeoutError):
            socket.recv(timeout=2)


def test_an_unknown_model_is_an_error(stream: Callable[..., Any], frame: bytes) -> None:
    with stream(model="unknown") as socket:
        socket.send(frame)
        assert json.loads(socket.recv(timeout=60))["error"].startswith("no model 'unknown' here")
    with stream(model="ferry-small") as socket:
        socket.send(frame)
        assert json.loads(socket.recv(timeout=60))["faces"]


def test_no_page_of_another_origin_reads_a_response(url: str, check_cors: Callable[..., None]) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        check_cors(client, "/live/healthz", "/live/openapi.json")


def test_pages_of_other_origins_are_refused(stream: Callable[..., Any], url: str, frame: bytes) -> None:
    with pytest.raises(InvalidStatus) as refused, stream(origin="https://example.org"):
        pass
    assert refused.value.response.status_code == 403
    with stream(origin=url) as socket:
        socket.send(frame)
        assert json.loads(socket.recv(timeout=60))["faces"]


def test_too_many_connections_are_told_to_try_again(stream: Callable[..., Any], url: str) -> None:
    wait_for_connections(url, 0)
    with stream(), stream():
        wait_for_connections(url, 2)
        with stream(token=None) as third:
            assert "too many" in closed(third, 1013)
    wait_for_connections(url, 0)


def closed(socket: ClientConnection, code: int) -> str:
    """The reason with which the server closes a connection."""
    with pytest.raises(ConnectionClosed) as ended:
        socket.recv(timeout=60)
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == code
    return ended.value.rcvd.reason


def wait_for_connections(url: str, count: int) -> None:
    until(lambda: httpx.get(f"{url}/live/healthz", timeout=60).json() == {"connections": count})
