"""Whether `fer serve` keeps answering: under load for minutes while parts of it are replaced and killed, and at starts.

    python -m benchmarks.serving.soak [--minutes 10] [--parts '["starts", "scaling", "soak"]']

`soak` serves a registered model and sends at 80% of saturation. In turn, the model is promoted, the challenger's share
is changed, a replica and HAProxy are killed, and at last the server itself, which is started again on its port.
`starts` starts a server eight times and looks at its first 20 seconds. `scaling` lets the load start a second replica.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from benchmarks.serving.load import photographs
from benchmarks.serving.open_loop import OpenLoop, Phase, print_phases, split
from benchmarks.serving.registered import PROXY, REPLICA, RegisteredServer, registry
from cluster.ports import free_port
from fer.options import Options, parse
from fer.registry import promote, set_canary
from fer.tracking import TrackingOptions

CONNECTIONS = 16
"""Connections with which saturation is measured."""
LOAD = 0.8
"""The load, as a share of saturation."""
FIRST_SECONDS = 20
SCALING_SECONDS, SCALING_CONNECTIONS = 120, 32
START_UP = 15
"""Within so many seconds, a new replica has started."""


class SoakBenchmark(Options):
    """Keep a server under load while it changes."""

    parts: list[str] = Field(["starts", "scaling", "soak"], description="What to run, as JSON")
    minutes: float = Field(10, gt=0, description="Length of the soak, in minutes")
    replicas: int = Field(3, ge=1, description="Replicas in the soak: one more than the load needs")
    starts: int = Field(8, ge=1, description="Starts of a server")
    warm_up: float = Field(15, ge=1, description="Length of the measurement of saturation, in seconds")


class Bench(NamedTuple):
    """What every part needs."""

    config: SoakBenchmark
    photos: list[bytes]
    tracking: TrackingOptions
    log: Path

    @asynccontextmanager
    async def server(self, *options: str) -> AsyncIterator[tuple[RegisteredServer, OpenLoop]]:
        """A server that is not started yet, and its client; both end with the ``with`` block."""
        with RegisteredServer(self.tracking, free_port(), self.log, *options) as server:
            load = OpenLoop(f"{server.url}/v1/predict", self.photos)
            try:
                yield server, load
            finally:
                await load.session.close()

    async def saturation(self, load: OpenLoop) -> float:
        """Requests per second at saturation."""
        await load.saturate(CONNECTIONS, 3)
        return await load.saturate(CONNECTIONS, self.config.warm_up)


async def main(config: SoakBenchmark) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photos = [file.read_bytes() for file in sorted(photographs(Path(folder) / "photos").glob("*.jpg"))]
        bench = Bench(config, photos, registry(Path(folder)), Path(folder) / "log")
        for part in config.parts:
            print(f"\n{part}", flush=True)
            await PARTS[part](bench)
        print(f"tracebacks in the servers' output: {bench.log.read_text().count('Traceback')}")


async def soak(bench: Bench) -> None:
    """Every change under load, and what it did to the requests."""
    options = ["--min-replicas", str(bench.config.replicas)]
    options += ["--challenger", "models:/face@challenger", "--canary", "0.1"]
    async with bench.server(*options) as (server, load):
        server.start()
        memories = {"start": server.memory()}
        best = await bench.saturation(load)
        print(f"saturation: {best:.0f} requests/s; the load: {LOAD * best:.0f} requests/s", flush=True)
        memories["after saturation"] = server.memory()
        marks: list[Phase] = []

        def mark(name: str) -> None:
            marks.append(Phase(name, time.monotonic(), load.ongoing))

        def restart() -> None:
            print(f"the killed server's port is free after {server.kill_driver():.1f} s")
            print(f"started again within {server.start():.1f} s", flush=True)
            mark("running again")

        events: dict[str, Callable[[], object]] = {
            "steady": lambda: None,
            "promotion": lambda: promote("face", "2", "champion", bench.tracking),
            "canary 0.1 to 0.3": lambda: set_canary("face", 0.3, bench.tracking),
            "replica killed": lambda: server.kill(REPLICA),
            "HAProxy killed": lambda: server.kill(PROXY),
            "server killed": restart,
        }
        length = 60 * bench.config.minutes / len(events)
        sending = asyncio.create_task(load.run(LOAD * best, 60 * bench.config.minutes))
        for name, event in events.items():
            if event is restart:
                memories["before the server was killed"] = server.memory()
            mark(name)
            await asyncio.gather(asyncio.to_thread(event), asyncio.sleep(length))
        await sending
        memories["end"] = server.memory()
        left = [each.name() for each in server.killed if each.is_running()]
    print_phases(split(load.sent, marks))
    print(f"processes of the killed server that still run: {left}")
    print("memory, GB: " + ", ".join(f"{name} {used:.2f}" for name, used in memories.items()), flush=True)


async def starts(bench: Bench) -> None:
    """The first seconds of a server with two replicas, from the moment when it says that it is ready."""
    seconds, marks = [], []
    async with bench.server("--min-replicas", "2") as (server, load):
        server.start()
        rate = LOAD * await bench.saturation(load)
        server.stop()
        for number in range(bench.config.starts):
            seconds.append(server.start())
            marks.append(Phase(f"start {number + 1}", time.monotonic(), 0))
            await load.run(rate, FIRST_SECONDS)
            server.stop()
    print(f"ready after {min(seconds):.1f} to {max(seconds):.1f} s; {rate:.0f} requests/s for {FIRST_SECONDS} s each")
    print_phases(split(load.sent, marks))


async def scaling(bench: Bench) -> None:
    """More clients than one replica is meant for, until there is a second one."""
    async with bench.server("--min-replicas", "1", "--max-replicas", "2") as (server, load):
        server.start()
        await load.saturate(CONNECTIONS, 3)
        marks = [Phase("one replica", time.monotonic(), 0)]

        async def watch() -> None:
            while len(server.processes(REPLICA)) < 2:
                await asyncio.sleep(0.5)
            marks.append(Phase("while the second one starts", time.monotonic(), load.ongoing))
            await asyncio.sleep(START_UP)
            marks.append(Phase("two replicas", time.monotonic(), load.ongoing))

        watching = asyncio.create_task(watch())
        await load.saturate(SCALING_CONNECTIONS, SCALING_SECONDS)
        assert watching.done(), "no second replica has started"
    print_phases(split(load.sent, marks))


PARTS = {"starts": starts, "scaling": scaling, "soak": soak}


if __name__ == "__main__":
    asyncio.run(main(parse(SoakBenchmark, sys.argv[1:], "soak")))
