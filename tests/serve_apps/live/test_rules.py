"""Who may open a live stream: odd origins and tokens are refused, and break nothing."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from fastapi import HTTPException, WebSocket

from serve_apps.access.api_keys import ApiKey, digest
from serve_apps.access.auth import Gate
from serve_apps.live.app import LatestFrame, Live, same_origin
from serve_apps.live.options import LiveConfig

TOKEN = "a token for the tests"


async def send_nothing(message: object) -> None:
    pass


def opened(message: dict[str, object], **headers: bytes) -> WebSocket:
    """A connection whose client sends one message."""
    messages = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", **message}])

    async def receive() -> dict[str, object]:
        return next(messages)

    scope = {"type": "websocket", "headers": [(name.encode(), value) for name, value in headers.items()]}
    return WebSocket(scope, receive, send_nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (b"http://faces.example:8000", True),
        (b"https://faces.example:8000", True),
        (b"https://other.example", False),
        (b"http://[", False),
        (b"null", False),
        (b"\xff", False),
    ],
)
def test_only_the_servers_own_page_may_connect(origin: bytes, allowed: bool) -> None:
    assert same_origin(opened({}, host=b"faces.example:8000", origin=origin)) is allowed


def test_without_a_key_no_other_name_may_stand_for_this_machine() -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    socket = opened({}, host=b"evil.example:8000", origin=b"http://evil.example:8000")
    socket._send = send  # type: ignore[assignment]
    live = SimpleNamespace(config=LiveConfig(max_connections=1), connections=0, gate=Gate([]))
    asyncio.run(Live.func_or_class.stream(live, socket))  # type: ignore[attr-defined]
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize(
    ("message", "allowed"),
    [
        ({"text": json.dumps({"token": TOKEN})}, True),
        ({"text": json.dumps({"token": "wrong"})}, False),
        ({"text": "[" * 100_000}, False),
        ({"text": '{"token": "\\ud800"}'}, False),
        ({"text": "3"}, False),
        ({"bytes": b"x"}, False),
    ],
)
def test_the_first_message_is_the_token(message: dict[str, object], allowed: bool) -> None:
    async def main() -> ApiKey | None:
        socket = opened(message)
        await socket.accept()
        live = SimpleNamespace(gate=Gate([ApiKey(name="token", digest=digest(TOKEN), scopes=["live"])]))
        return await Live.func_or_class.authenticate(live, socket)  # type: ignore[attr-defined]

    if allowed:
        assert asyncio.run(main())
    else:
        with pytest.raises(HTTPException, match="401"):
            asyncio.run(main())


class Silent:
    """A connection whose client sends nothing more."""

    def __init__(self) -> None:
        self.closed: list[tuple[int, str]] = []

    async def receive(self) -> None:
        await asyncio.sleep(600)

    async def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


def test_a_connection_that_waits_for_an_answer_is_not_idle() -> None:
    async def main() -> None:
        socket, frames = Silent(), LatestFrame()
        frames.put(b"a frame")
        live = SimpleNamespace(config=LiveConfig(idle_seconds=0.02))
        receiving = asyncio.create_task(Live.func_or_class.receive(live, socket, frames))  # type: ignore[attr-defined]
        await asyncio.sleep(0.2)
        assert not socket.closed
        frames.answered, _, _ = await frames.take()
        await receiving
        assert socket.closed == [(1000, "idle")]

    asyncio.run(main())
