"""One line per HTTP request, in JSON or text, in a file of each replica in the log folder of Ray's session.

A line says what was answered and how long it took. It has no image, no file name, no address, and labels only if asked.
"""

from __future__ import annotations

import json
import logging
import os
import time
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from threading import Event
from typing import IO, Any

import ray
from fastapi import Request
from ray.serve.context import _get_serve_request_context
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_apps.options import ServerOptions
from serve_apps.schema import PredictResponse

LOGGER = logging.getLogger("fer.requests")
LOGGER.setLevel(logging.WARNING)  # until `open_request_log`
FILES = "requests-*.log"
MAX_BYTES, KEPT_FILES = 100 * 2**20, 5
POLL_SECONDS = 0.3


class RequestLog:
    """Middleware that logs each request after its response, once `open_request_log` has been called."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not LOGGER.isEnabledFor(logging.INFO):
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        state = scope.setdefault("state", {})

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        finally:
            entry = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request_id": request_id(),
                "method": scope["method"],
                "route": getattr(scope.get("route"), "path", None),
                "status": status,
                "milliseconds": round(1000 * (time.perf_counter() - started), 2),
            }
            LOGGER.info(entry | state.get("log", {}))


class JsonLine(logging.Formatter):
    """The entry as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(record.msg)


class TextLine(logging.Formatter):
    """The entry for reading: time, status, route and time first, then what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        message: Any = record.msg
        entry: dict[str, Any] = dict(message)
        head = [entry.pop(name) for name in ("time", "status", "method", "route", "milliseconds")]
        more = " ".join(f"{name}={json.dumps(value)}" for name, value in entry.items())
        return "{} {} {} {} {} ms".format(*head) + f" {more}"


def request_id() -> str:
    """The X-Request-ID of the request that this task answers."""
    return _get_serve_request_context().request_id


def note_response(request: Request, response: PredictResponse, labels: bool) -> None:
    """Add to the request's line which version answered, its time by stage, and its faces; their labels if asked."""
    faces = [face for image in response.images for face in image.faces]
    request.state.log = {
        "model": response.model.name,
        "version": response.model.version,
        "role": response.role,
        "images": len(response.images),
        "faces": len(faces),
        "timing": {stage: round(spent, 2) for stage, spent in response.timing.model_dump().items()},
    }
    if labels:
        request.state.log["labels"] = [face.label for face in faces]


def open_request_log(config: ServerOptions) -> None:
    """Log the requests of this process from now on, if ``config`` says so."""
    if config.log_format is None:
        return
    file = log_folder() / FILES.replace("*", str(os.getpid()))
    handler = RotatingFileHandler(file, maxBytes=MAX_BYTES, backupCount=KEPT_FILES)
    handler.setFormatter(JsonLine() if config.log_format == "json" else TextLine())
    LOGGER.handlers, LOGGER.propagate = [handler], False
    LOGGER.setLevel(logging.INFO)


def log_folder() -> Path:
    """The log folder of Ray's session on this node."""
    node = ray._private.worker._global_node
    assert node is not None, "this process is connected to Ray"
    return Path(node.get_logs_dir_path())


def print_request_logs(folder: Path, out: IO[str], stop: Event) -> None:
    """Copy the lines that this node's replicas write to ``out``, until ``stop`` and the lines before it."""
    files: dict[Path, GrowingFile] = {}
    stopped = False
    while not stopped:
        stopped = stop.wait(POLL_SECONDS)
        for path in sorted(folder.glob(FILES)):
            if path not in files:
                files[path] = GrowingFile(path)
            out.write(files[path].read_lines())
        out.flush()


class GrowingFile:
    """A log file that is read while it grows, and that may be renamed and begun again."""

    def __init__(self, path: Path) -> None:
        self.path, self.rest = path, ""
        self.file = path.open()

    def read_lines(self) -> str:
        """The complete lines since the last call."""
        text = self.rest + self.file.read()
        if self.path.exists() and self.path.stat().st_ino != os.fstat(self.file.fileno()).st_ino:
            self.file.close()
            self.file = self.path.open()
            text += self.file.read()
        lines, newline, self.rest = text.rpartition("\n")
        return lines + newline
