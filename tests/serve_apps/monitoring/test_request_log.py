"""The log of requests: its lines, and following files that are rotated."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import HTTPException, Request
from starlette.testclient import TestClient

from serve_apps.monitoring.request_log import LOGGER, GrowingFile, JsonLine, TextLine, note_response, print_request_logs
from serve_apps.responses import new_api
from tests.serve_apps.monitoring.test_observations import answer
from tests.waiting import until

api = new_api("test", "an application with a log")


@api.get("/faces/{number}")
async def faces(number: int, request: Request) -> str:
    if number == 0:
        raise HTTPException(422, "no faces")
    if number == 1:
        raise RuntimeError
    note_response(request, answer("happy", "sad"), labels=number == 3)
    return "secret"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the log writes, as JSON."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonLine())
    LOGGER.handlers, LOGGER.propagate = [handler], False
    LOGGER.setLevel(logging.INFO)
    yield text
    LOGGER.handlers, LOGGER.propagate = [], True
    LOGGER.setLevel(logging.WARNING)


def test_one_line_for_each_request(lines: io.StringIO) -> None:
    client = TestClient(api, raise_server_exceptions=False)
    paths = ["/faces/2?name=secret", "/faces/0", "/faces/1", "/secret", "/faces/3"]
    statuses = [client.get(path).status_code for path in paths]
    entries = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [entry["status"] for entry in entries] == statuses == [200, 422, 500, 404, 200]
    assert [entry["route"] for entry in entries] == ["/faces/{number}"] * 3 + [None] + ["/faces/{number}"]
    first = entries[0]
    assert (first["model"], first["version"], first["role"], first["faces"]) == ("face", "1", "champion", 2)
    assert first["timing"] == {"waiting": 0, "decoding": 1, "detection": 1, "model": 2}
    assert first["milliseconds"] >= 0
    assert "labels" not in first
    assert entries[4]["labels"] == ["happy", "sad"]
    assert "secret" not in lines.getvalue()


def test_nothing_is_logged_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    assert TestClient(api).get("/faces/2").status_code == 200
    assert not [record for record in caplog.records if record.name == LOGGER.name]


def test_lines_for_reading() -> None:
    entry = {"time": "T", "request_id": "a\nb", "method": "GET", "route": "/", "status": 200, "milliseconds": 1.5}
    record = logging.LogRecord("x", logging.INFO, "", 0, entry, None, None)
    assert TextLine().format(record) == 'T 200 GET / 1.5 ms request_id="a\\nb"'
    assert json.loads(JsonLine().format(record)) == entry


def test_a_file_is_followed_through_its_rotation(tmp_path: Path) -> None:
    path = tmp_path / "requests-1.log"
    path.write_text("one\ntw")
    file = GrowingFile(path)
    assert file.read_lines() == "one\n"
    with path.open("a") as out:
        out.write("o\nthree\n")
    path.rename(tmp_path / "requests-1.log.1")
    assert file.read_lines() == "two\nthree\n"
    path.write_text("four\n")
    assert file.read_lines() == "four\n"


def test_lines_of_all_replicas_are_printed_to_the_last(tmp_path: Path) -> None:
    out, stop = io.StringIO(), threading.Event()
    printer = threading.Thread(target=print_request_logs, args=(tmp_path, out, stop))
    printer.start()
    (tmp_path / "requests-1.log").write_text("one\n")
    until(lambda: "one" in out.getvalue())
    (tmp_path / "requests-2.log").write_text("two\n")
    stop.set()
    printer.join()
    assert out.getvalue() == "one\ntwo\n"


def test_a_websocket_is_no_request() -> None:
    async def application(scope: object, receive: object, send: object) -> None:
        seen.append(scope)

    from serve_apps.monitoring.request_log import RequestLog

    seen: list[object] = []
    asyncio.run(RequestLog(application)({"type": "websocket"}, None, None))  # type: ignore[arg-type]
    assert seen == [{"type": "websocket"}]
