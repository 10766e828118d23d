"""A client that sends at a constant rate, whatever the server does, and keeps what becomes of every request.

The times of the requests are set before; a late answer delays no request, and latency counts from the time that was
set. (A client that waits for answers sends less to a slow server, and does not see how slow it is.)
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import aiohttp
import numpy as np

CLIENTS = 100
"""The requests come from so many clients, by their X-Client-ID."""
TIMEOUT = 60
"""Seconds that a request may take."""
OK = "200"


@dataclass
class Sent:
    """One request. Times are those of `time.monotonic`, in seconds."""

    due: float
    """When it was to be sent."""
    started: float
    photo: int
    done: float = 0.0
    result: str = ""
    """The status, or how the connection failed."""
    version: str = ""
    label: str = ""

    @property
    def answered(self) -> bool:
        return self.result == OK


class OpenLoop:
    """Sends photographs, in turn, to ``url``; the requests of all calls are in ``sent``, in the order of sending."""

    def __init__(self, url: str, photos: Sequence[bytes]) -> None:
        self.url, self.photos = url, photos
        self.sent: list[Sent] = []
        self.ongoing = 0
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=10), timeout=aiohttp.ClientTimeout(TIMEOUT)
        )

    async def run(self, rate: float, seconds: float) -> None:
        """Send ``rate`` requests per second, and wait for the last answers."""
        start, tasks = time.monotonic(), set()
        for number in range(round(rate * seconds)):
            due = start + number / rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self.send(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def saturate(self, connections: int, seconds: float) -> float:
        """Answers per second with so many connections that wait for each answer."""
        until, before = time.monotonic() + seconds, len(self.sent)

        async def keep_sending() -> None:
            while time.monotonic() < until:
                await self.send(time.monotonic())

        await asyncio.gather(*[keep_sending() for _ in range(connections)])
        return sum(each.answered for each in self.sent[before:]) / seconds

    async def send(self, due: float) -> None:
        """Send one request."""
        number = len(self.sent)
        sent = Sent(due, time.monotonic(), number % len(self.photos))
        self.sent.append(sent)
        self.ongoing += 1
        headers = {"Content-Type": "image/jpeg", "X-Client-ID": f"client {number % CLIENTS}"}
        try:
            async with self.session.post(self.url, data=self.photos[sent.photo], headers=headers) as response:
                body = await response.read()
            sent.result = str(response.status)
            if sent.answered:
                answer = json.loads(body)
                sent.version, sent.label = answer["model"]["version"], answer["images"][0]["faces"][0]["label"]
        except aiohttp.ClientConnectorError:
            sent.result = "refused"
        except TimeoutError:
            sent.result = "no answer"
        except aiohttp.ClientError:
            sent.result = "cut off"
        sent.done = time.monotonic()
        self.ongoing -= 1


@dataclass
class Phase:
    """A part of the load, from what has happened at its start to the next one."""

    name: str
    start: float
    in_flight: int
    """Requests without an answer at its start."""
    sent: list[Sent] = field(default_factory=list)


def split(sent: Sequence[Sent], phases: list[Phase]) -> list[Phase]:
    """The phases, in the order of their starts, with the requests that were to be sent in each."""
    for each in sent:
        number = sum(phase.start <= each.due for phase in phases) - 1
        if number >= 0:  # the others came before the first phase
            phases[number].sent.append(each)
    return phases


def print_phases(phases: Sequence[Phase]) -> None:
    """A table of what became of the requests; below it, whether each photograph always got the same label."""
    columns = ("", "sent", "answered", "failed", "in flight", "longest gap", "p50", "p99", "most", "versions")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for phase in phases:
        answers = [each for each in phase.sent if each.answered]
        failed = ", ".join(
            f"{n} {kind}" for kind, n in Counter(each.result for each in phase.sent).items() if kind != OK
        )
        versions = ", ".join(
            f"{n} by {version}" for version, n in sorted(Counter(each.version for each in answers).items())
        )
        p50, p99, most = np.percentile([1000 * (each.done - each.due) for each in answers] or [np.nan], (50, 99, 100))
        gap = max(
            (after - before for before, after in pairwise([phase.start, *sorted(each.done for each in answers)])),
            default=np.nan,
        )
        print(
            f"| {phase.name} | {len(phase.sent)} | {len(answers)} | {failed or 0} | {phase.in_flight} | {gap:.2f} s "
            f"| {p50:.0f} ms | {p99:.0f} ms | {most:.0f} ms | {versions} |"
        )
    sent = [each for phase in phases for each in phase.sent]
    labels = {(each.photo, each.label) for each in sent if each.answered}
    print(f"{len({photo for photo, _ in labels})} photographs with {len(labels)} labels")
    late = max(1000 * (each.started - each.due) for each in sent)
    print(f"the client itself was at most {late:.0f} ms late", flush=True)
