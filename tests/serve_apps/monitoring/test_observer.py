"""How a replica asks all replicas, without Ray."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from serve_apps.monitoring.observer import Observer


def observer(results_async: Any) -> Observer:
    """One that asks two times at once at most."""
    made = Observer(max_asking=2)
    made.handle = SimpleNamespace(broadcast=lambda *_: SimpleNamespace(results_async=results_async))  # type: ignore[assignment]
    return made


def test_reports_leave_slots_for_the_questions_that_they_ask() -> None:
    """Every one holds a slot of its replica while it waits for answers, for which each replica needs a slot too."""

    async def main() -> None:
        answered = asyncio.Event()

        async def answer_later(timeout_s: float) -> list[str]:
            await answered.wait()
            return ["a snapshot"]

        asking = observer(answer_later)
        first = [asyncio.create_task(asking.ask_replicas("snapshot")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(HTTPException) as busy:
            await asking.ask_replicas("snapshot")
        assert (busy.value.status_code, busy.value.headers) == (503, {"Retry-After": "1"})
        answered.set()
        assert await asyncio.gather(*first) == [["a snapshot"]] * 2
        assert await asking.ask_replicas("snapshot") == ["a snapshot"]

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("error", [TimeoutError("timed out"), RayActorError(), RayServeException("no replica")])
def test_a_replica_that_does_not_answer_is_no_server_error(error: Exception) -> None:
    async def fail(timeout_s: float) -> list[str]:
        raise error

    asking = observer(fail)
    for _ in range(3):
        with pytest.raises(HTTPException) as caught:
            asyncio.run(asking.ask_replicas("snapshot"))
        assert caught.value.status_code == 503
