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
from fer.inference.base import Answer, Answerer, Ask, Sampling

ENDPOINT_RETRIES = 6
"""Times that a request is sent again when the endpoint is busy or breaks off, ever later."""

FIRST_REFUSALS = 8
"""So many questions refused before the first answer: the fault is the request's, not the questions'."""


class Endpoint(Answerer):
    """A model behind an OpenAI-compatible endpoint; the key is in OPENAI_API_KEY.

    At most ``concurrency`` requests are under way, and ``per_minute`` are begun in a minute (0: no limit).
    """

    def __init__(self, url: str, model: str, concurrency: int, per_minute: float = 0) -> None:
        self.url, self.model, self.concurrency = url, model, concurrency
        self._pace = Pace(per_minute)

    def stream(self, pending: deque[tuple[int, Ask]], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Raises UserError where the endpoint can't be reached or refuses, once the requests under way are done.

        A question that it refuses by itself (its image, or its content) has a fault instead.
        """
        from openai import OpenAI

        key = os.environ.get("OPENAI_API_KEY") or "none"
        failed: UserError | None = None
        answered = refused = 0
        with (
            OpenAI(base_url=self.url, api_key=key, max_retries=ENDPOINT_RETRIES) as client,
            ThreadPoolExecutor(self.concurrency, thread_name_prefix="ask") as pool,
        ):
            running: dict[Future[Answer], int] = {}
            while running or (pending and not failed):
                while pending and not failed and len(running) < self.concurrency:
                    number, ask = pending.popleft()
                    running[pool.submit(self._ask, client, number, ask, sampling)] = number
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    number = running.pop(done)
                    if isinstance(error := done.exception(), UserError):
                        failed = error
                        continue
                    answer = done.result()
                    answered += answer.fault is None
                    refused += answer.fault is not None
                    if refused >= FIRST_REFUSALS and not answered:
                        failed = UserError(f"--endpoint {self.url}: {answer.fault}")
                    yield number, answer
        if failed:
            raise failed

    def _ask(self, client: Any, number: int, ask: Ask, sampling: Sampling) -> Answer:
        from openai import APIConnectionError, APIStatusError

        self._pace.wait()
        guide = {"response_format": _choice(ask.labels)} if sampling.guided and ask.labels else {}
        try:
            done = client.chat.completions.create(
                model=self.model,
                messages=_messages(ask),
                temperature=sampling.temperature,
                max_tokens=sampling.tokens,
                seed=sampling.seed + number,
                **guide,
            )
        except APIConnectionError:
            raise UserError(f"--endpoint {self.url} can't be reached") from None
        except APIStatusError as error:
            if error.status_code in (400, 413, 422):
                return Answer("", fault=f"refused ({error.status_code}): {error.message}")
            raise UserError(f"--endpoint {self.url} refused ({error.status_code}): {error.message}") from None
        usage = done.usage
        return Answer(
            done.choices[0].message.content or "",
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
        )


class Pace:
    """Lets at most so many through in a minute, evenly; 0: all, at once."""

    def __init__(self, per_minute: float) -> None:
        self.seconds = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._guard = threading.Lock()

    def wait(self) -> None:
        with self._guard:
            turn = max(self._next, time.monotonic())
            self._next = turn + self.seconds
        time.sleep(max(0.0, turn - time.monotonic()))


def _messages(ask: Ask) -> list[dict[str, Any]]:
    kind = Image.open(io.BytesIO(ask.image)).get_format_mimetype()
    url = f"data:{kind};base64,{base64.b64encode(ask.image).decode()}"
    image = {"type": "image_url", "image_url": {"url": url}}
    messages: list[dict[str, Any]] = []
    for asked, answered in ask.before:
        messages.append({"role": "user", "content": [{"type": "text", "text": asked}]})
        messages.append({"role": "assistant", "content": answered})
    messages.append({"role": "user", "content": [{"type": "text", "text": ask.prompt}]})
    messages[0]["content"].insert(0, image)
    return messages


def _choice(labels: Sequence[str]) -> dict[str, Any]:
    """OpenAI's structured output has no plain choice: an object whose one field is a candidate label."""
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": list(labels)}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "expression", "strict": True, "schema": schema}}
