"""What a chat request waits for, without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import HTTPException
from ray.serve.exceptions import BackPressureError

from serve_apps.vlm.schema import Rejected
from serve_apps.vlm.stream import first_output


async def outputs(seconds: float, *values: str | Rejected | Exception) -> AsyncIterator[str | Rejected]:
    """What an engine sends after some time."""
    await asyncio.sleep(seconds)
    for value in values:
        if isinstance(value, Exception):
            raise value
        yield value


def first(seconds: float, *values: str | Rejected | Exception, engines: int = 1) -> str:
    async def running_engines() -> int:
        return engines

    return asyncio.run(first_output(outputs(seconds, *values), running_engines))


@pytest.fixture(autouse=True)
def _short_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_apps.vlm.stream.START_SECONDS", 0.1)


def test_a_busy_engine_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first(0.3, "one", "two") == "one"
    monkeypatch.setattr("serve_apps.vlm.stream.START_SECONDS", 60)
    assert first(0.05, "one", engines=0) == "one"


def test_an_engine_that_is_being_started_is_not_waited_for_long() -> None:
    with pytest.raises(HTTPException, match="the model is being started; try again") as refused:
        first(60, "one", engines=0)
    assert refused.value.status_code == 503
    assert refused.value.headers == {"Retry-After": "15"}


@pytest.mark.parametrize(
    ("value", "status", "reason"),
    [
        (Rejected(422, "a reason"), 422, "a reason"),
        (Rejected(503, "stopped"), 503, "stopped; try again"),
        (BackPressureError(num_queued_requests=2, max_queued_requests=2), 503, "the server is busy; try again"),
    ],
)
def test_a_refusal_of_the_engine_is_passed_on(value: Rejected | Exception, status: int, reason: str) -> None:
    with pytest.raises(HTTPException) as refused:
        first(0, value)
    assert (refused.value.status_code, refused.value.detail) == (status, reason)
