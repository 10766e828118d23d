"""One trainer's requests to the engines: each goes to the engine with the least to do, on a thread beside the training.

A group of completions is one request, so it shares its prompt on one engine. An engine gets as many completions as it
samples at a time; more requests wait here, so that they go to the engine that is free first, however slow the others
are. What an engine leaves unfinished goes to another one.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from ray.exceptions import RayActorError

from fer.grpo.rollout import Prompt, RolloutOutput


@dataclass(order=True)
class _Request:
    number: int
    """Older requests go first."""
    prompt: Prompt = field(compare=False)
    greedy: bool = field(compare=False)
    completions: int = field(compare=False)
    output: Future[RolloutOutput] = field(compare=False)


class Router:
    """Sends requests to engines. Its state is that of its thread."""

    def __init__(self, actors: Sequence[Any], capacity: int, group_size: int, first: int = 0) -> None:
        """``capacity``: completions of this trainer that an engine samples at a time, at least one group.

        ``group_size``: completions of a prompt. ``first``: the engine that is chosen first; each trainer has another.
        """
        self.actors, self.capacity, self.group_size, self.first = actors, capacity, group_size, first
        self.load = [0] * len(actors)
        """Completions that each engine samples."""
        self.lost: set[int] = set()
        """Engines that died, or that have no weights, since `readmit`."""
        self._answered = [0.0] * len(actors)
        """When each engine answered last, or got its first request after a pause."""
        self._waiting: list[_Request] = []
        self._numbers = count()
        self._calls: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def submit(self, prompts: Sequence[Prompt], greedy: bool = False) -> list[Future[RolloutOutput]]:
        """Queue prompts; their results."""
        size = 1 if greedy else self.group_size
        requests = [_Request(next(self._numbers), prompt, greedy, size, Future()) for prompt in prompts]
        self._loop.call_soon_threadsafe(self._queue, requests)
        return [request.output for request in requests]

    def readmit(self) -> None:
        """Send requests to lost engines again: they have weights."""
        asyncio.run_coroutine_threadsafe(self._readmit(), self._loop).result()

    @property
    def busy(self) -> list[int]:
        """Engines with requests."""
        return [engine for engine, load in enumerate(self.load) if load]

    def silent_since(self, moment: float, seconds: float) -> set[int]:
        """Engines with requests that have not answered for so long, nor since ``moment``."""
        now = time.monotonic()
        return {engine for engine in self.busy if now - max(moment, self._answered[engine]) > seconds}

    # -- on the thread -------------------------------------------------------------------------------------------------

    def _queue(self, requests: Sequence[_Request]) -> None:
        for request in requests:
            heapq.heappush(self._waiting, request)
        self._send()

    async def _readmit(self) -> None:
        self.lost.clear()
        self._send()

    def _send(self) -> None:
        """Send waiting requests as long as there is an engine with room for the next one."""
        while self._waiting and (engine := self._choose(self._waiting[0].completions)) is not None:
            request = heapq.heappop(self._waiting)
            if not self.load[engine]:
                self._answered[engine] = time.monotonic()
            self.load[engine] += request.completions
            call = self._loop.create_task(self._call(engine, request))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    def _choose(self, completions: int) -> int | None:
        """The engine with the fewest completions; None if all are full or lost."""
        free = [
            engine
            for engine, load in enumerate(self.load)
            if engine not in self.lost and (not load or load + completions <= self.capacity)
        ]
        return min(free, key=lambda e: (self.load[e], (e - self.first) % len(self.actors)), default=None)

    async def _call(self, engine: int, request: _Request) -> None:
        output: RolloutOutput | None = None
        try:
            output = await self.actors[engine].generate.remote(request.prompt, request.greedy)
        except RayActorError:
            pass  # it is lost, see below
        except Exception as error:
            request.output.set_exception(error)
        self.load[engine] -= request.completions
        self._answered[engine] = time.monotonic()
        if output is not None:
            request.output.set_result(output)
        elif not request.output.done():
            self.lost.add(engine)
            heapq.heappush(self._waiting, request)
        self._send()
