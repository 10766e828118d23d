"""A vision-language model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import base64
import io
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from PIL import Image

from fer.errors import UserError
from fer.inference.base import InferenceClient, Request, Response, SamplingParams

MAX_RETRIES = 6
"""Retries of a request, with exponential backoff, while the endpoint is busy or drops the connection."""

MAX_INITIAL_REJECTIONS = 8
"""Stop if a client has so many requests rejected before its first success: all of them then have the same cause."""


class OpenAIClient(InferenceClient):
    """Sends requests to an OpenAI-compatible endpoint; the API key is read from OPENAI_API_KEY.

    At most ``concurrency`` requests run at a time, and at most ``requests_per_minute`` start per minute (0: no limit).
    """

    def __init__(self, url: str, model: str, concurrency: int, requests_per_minute: float = 0) -> None:
        self.url, self.model, self.max_running = url, model, concurrency
        self._rate_limiter = RateLimiter(requests_per_minute)
        self._succeeded = self._rejected = 0

    def stream(self, pending: deque[tuple[int, Request]], sampling: SamplingParams) -> Iterator[tuple[int, Response]]:
        """Raises UserError if the endpoint is unreachable or rejects everything, after the running requests finished.

        A single rejected request (for its image or its content) yields a response with an error instead.
        """
        from openai import OpenAI

        key = os.environ.get("OPENAI_API_KEY") or "none"
        failure: UserError | None = None
        with (
            OpenAI(base_url=self.url, api_key=key, max_retries=MAX_RETRIES) as client,
            ThreadPoolExecutor(self.max_running, thread_name_prefix="openai") as pool,
        ):
            running: dict[Future[Response], int] = {}
            while running or (pending and not failure):
                while pending and not failure and len(running) < self.max_running:
                    number, request = pending.popleft()
                    running[pool.submit(self._send, client, number, request, sampling)] = number
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    number = running.pop(done)
                    if isinstance(error := done.exception(), UserError):
                        failure = error
                        continue
                    response = done.result()
                    self._succeeded += response.error is None
                    self._rejected += response.error is not None
                    if self._rejected >= MAX_INITIAL_REJECTIONS and not self._succeeded:
                        failure = UserError(f"--endpoint {self.url}: {response.error}")
                    yield number, response
        if failure:
            raise failure

    def _send(self, client: Any, number: int, request: Request, sampling: SamplingParams) -> Response:
        from openai import APIConnectionError, APIStatusError

        self._rate_limiter.wait()
        guided = {"response_format": _label_schema(request.labels)} if sampling.guided and request.labels else {}
        try:
            completion = client.chat.completions.create(
                model=self.model,
                messages=_messages(request),
                temperature=sampling.temperature,
                max_tokens=sampling.max_new_tokens,
                seed=sampling.seed + number,
                **guided,
            )
        except APIConnectionError:
            raise UserError(f"--endpoint {self.url} can't be reached") from None
        except APIStatusError as error:
            message = f"rejected with status {error.status_code}: {error.message}"
            if error.status_code in (400, 413, 422):
                return Response("", error=message)
            raise UserError(f"--endpoint {self.url}: {message}") from None
        if not completion.choices:  # some endpoints say so that a filter stopped the response
            return Response("", error="the endpoint sent no response")
        usage = completion.usage
        return Response(
            completion.choices[0].message.content or "",
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
        )


class RateLimiter:
    """Spaces calls of `wait` evenly, at most ``per_minute`` of them per minute; 0: no limit. Thread-safe."""

    def __init__(self, per_minute: float) -> None:
        self.interval = 60 / per_minute if per_minute else 0.0
        """Seconds between two calls."""
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Block until the next call may go ahead."""
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self.interval
        time.sleep(max(0.0, start - time.monotonic()))


def _messages(request: Request) -> list[dict[str, Any]]:
    mime_type = Image.open(io.BytesIO(request.image)).get_format_mimetype()
    url = f"data:{mime_type};base64,{base64.b64encode(request.image).decode()}"
    messages: list[dict[str, Any]] = []
    for turn in request.turns:
        messages.append({"role": "user", "content": [{"type": "text", "text": turn.prompt}]})
        if turn.response is not None:
            messages.append({"role": "assistant", "content": turn.response})
    messages[0]["content"].insert(0, {"type": "image_url", "image_url": {"url": url}})
    return messages


def _label_schema(labels: Sequence[str]) -> dict[str, Any]:
    """A JSON object with one field, a candidate label: OpenAI's structured output has no plain choice of strings."""
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": list(labels)}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "expression", "strict": True, "schema": schema}}
