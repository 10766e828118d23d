"""Whether `fer serve` withstands requests that nobody should send.

    python -m benchmarks.serving.fuzz [--examples 1000]

Sends generated requests (schemathesis, from the OpenAPI documents), damaged images and bombs, odd bodies and headers,
slow and contradictory bytes on sockets, and WebSocket frames of the wrong kind. Every one has to be answered or closed
in time, with no status of 500 or more but 503; afterwards, the server answers as before with no more memory.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
from pydantic import Field

from benchmarks.serving import fuzz_images, fuzz_requests, fuzz_websocket
from benchmarks.serving.registered import RegisteredServer, registry
from cluster.ports import free_port
from fer.options import Options, parse

UPLOAD_SECONDS = 5
"""The server's --max-upload-seconds."""
LIMIT = 45
"""Seconds within which everything has to be answered or closed."""
WARM_UP = 20
"""How often every image is sent before memory is measured."""
SETTLE_SECONDS = 10
SOCKETS = 8
"""Connections at a time."""


class FuzzBenchmark(Options):
    """Send a server what nobody should send."""

    examples: int = Field(1000, ge=1, description="Generated requests for each operation and each way to generate")
    images: int = Field(3000, ge=1, description="Damaged images")
    seed: int = Field(0, description="Seed of the damage")


class Result(NamedTuple):
    """What became of a request."""

    request: str
    outcome: str
    """A status, "closed", "frame", or what is wrong."""

    @property
    def wrong(self) -> bool:
        return not (self.outcome in ("closed", "frame", "503") or (self.outcome.isdigit() and self.outcome < "500"))


class Target(NamedTuple):
    """The server, and a photograph that it can read."""

    url: str
    address: tuple[str, int]
    photo: bytes
    config: FuzzBenchmark


def main(config: FuzzBenchmark) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--min-replicas", "2", "--max-upload-seconds", str(UPLOAD_SECONDS), "--on-device"]
        with RegisteredServer(registry(Path(folder)), free_port(), Path(folder) / "log", *options) as server:
            print(f"ready after {server.start():.1f} s")
            images = fuzz_images.images()
            target = Target(server.url, ("127.0.0.1", server.port), images[0], config)
            expected = [answer(server.url, image) for image in images * WARM_UP][-len(images) :]
            before = server.memory()
            wrong = [result for name, part in PARTS.items() for result in run(name, part(target))]
            time.sleep(SETTLE_SECONDS)
            assert [answer(server.url, image) for image in images] == expected, "other answers than before"
            print(f"memory before {before:.2f} GB, after {server.memory():.2f} GB")
        print(f"tracebacks in the server's output: {server.log.read_text().count('Traceback')}")
    for result in wrong:
        print(result)
    sys.exit(bool(wrong))


def run(name: str, results: Iterator[Result]) -> list[Result]:
    """Print what became of the requests of a part; return those that went wrong."""
    started, wrong, outcomes = time.monotonic(), [], Counter[str]()
    for result in results:
        outcomes[result.outcome] += 1
        if result.wrong:
            wrong.append(result)
    listed = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"{name}: {outcomes.total()} in {time.monotonic() - started:.0f} s: {listed}", flush=True)
    return wrong


def answer(url: str, image: bytes) -> object:
    """The faces in an image, or why there are none."""
    response = httpx.post(f"{url}/v1/predict", content=image, headers=fuzz_requests.RAW, timeout=LIMIT)
    assert response.status_code in (200, 422), response.text
    return response.json().get("images", response.text)


def generated(target: Target) -> Iterator[Result]:
    """Requests from the OpenAPI documents, half of them valid, for every operation."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis.errors import Unsatisfiable
    from hypothesis.strategies import just
    from schemathesis import GenerationMode

    schemathesis.serializer("image/*")(lambda _, value: {"data": value})
    results: list[Result] = []

    def call(case: schemathesis.Case, base: str) -> None:
        outcome = str(case.call(base_url=base, timeout=LIMIT).status_code)
        results.append(Result(f"{case.method} {case.path} {case.path_parameters} {case.media_type}", outcome))

    how = settings(
        max_examples=target.config.examples, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    for app in ("", "/live"):
        base = target.url + app
        for found in schemathesis.openapi.from_url(f"{base}/openapi.json").get_all_operations():
            for mode in GenerationMode:
                cases = found.ok().as_strategy(generation_mode=mode)
                with suppress(Unsatisfiable):  # without parameters, no request is invalid
                    seed(target.config.seed)(how(given(case=cases, base=just(base))(call)))()
        yield from results
        results.clear()


def images(target: Target) -> Iterator[Result]:
    """Damaged images, and bombs, as raw bodies."""
    rng = np.random.default_rng(target.config.seed)
    damaged = fuzz_images.mutated(rng, fuzz_images.images(), target.config.images)
    with httpx.Client(base_url=target.url, timeout=LIMIT) as client:
        for number, image in enumerate([*fuzz_images.bombs(), *damaged]):
            sent = fuzz_requests.Sent("POST", "/v1/predict", {"content": image, "headers": fuzz_requests.RAW})
            yield send(client, sent, f"image {number}")


def odd_requests(target: Target) -> Iterator[Result]:
    """Bodies, headers and paths."""
    with httpx.Client(base_url=target.url, timeout=LIMIT) as client:
        for number, sent in enumerate(fuzz_requests.requests(target.photo)):
            described = str(sent.arguments.get("headers", ""))[:200]
            yield send(client, sent, f"{number}: {sent.method} {sent.path[:100]} {described}")


def send(client: httpx.Client, sent: fuzz_requests.Sent, name: str) -> Result:
    try:
        return Result(name, str(client.request(sent.method, sent.path, **sent.arguments).status_code))
    except httpx.TimeoutException:
        return Result(name, "no answer")
    except httpx.RemoteProtocolError as error:
        return Result(name, "closed" if "disconnected" in str(error) else str(error))
    except (httpx.NetworkError, httpx.LocalProtocolError):
        return Result(name, "closed")


def contradictions(target: Target) -> Iterator[Result]:
    return exchanges(target, fuzz_requests.contradictions(target.photo))


def slow(target: Target) -> Iterator[Result]:
    return exchanges(target, fuzz_requests.slow(target.photo))


def exchanges(target: Target, sent: list[fuzz_requests.Exchange]) -> Iterator[Result]:
    """Bytes on sockets, each with our half of the connection left open and closed; several at a time."""
    with ThreadPoolExecutor(SOCKETS) as pool:
        yield from pool.map(partial(exchange, target), sent * 2, [False] * len(sent) + [True] * len(sent))


def exchange(target: Target, sent: fuzz_requests.Exchange, half_close: bool) -> Result:
    name, pieces, most = sent
    name += ", half closed" * half_close
    try:
        received = fuzz_requests.converse(target.address, pieces, LIMIT, half_close)
    except TimeoutError as error:
        return Result(name, str(error))
    if received.count(b"HTTP/1.") > most:
        return Result(name, f"{received.count(b'HTTP/1.')} answers")
    return Result(name, received.split(b" ")[1].decode() if received.startswith(b"HTTP/1.") else "closed")


def websockets(target: Target) -> Iterator[Result]:
    """Frames, and pages of other origins."""
    for name, data in fuzz_websocket.frames(target.photo).items():
        try:
            received = fuzz_websocket.respond(target.address, data, LIMIT)
            yield Result(name, "frame" if received else "closed")
        except TimeoutError:
            yield Result(name, "no answer")
    for origin in fuzz_websocket.origins():
        with fuzz_websocket.connection(target.address, LIMIT, origin) as (_, response):
            yield Result(f"origin {origin!r}", response.split(b" ")[1].decode() if response else "closed")


PARTS: dict[str, Callable[[Target], Iterator[Result]]] = {
    "generated from OpenAPI": generated,
    "damaged images": images,
    "odd requests": odd_requests,
    "contradictory bytes on sockets": contradictions,
    "slow bytes on sockets": slow,
    "WebSockets": websockets,
}


if __name__ == "__main__":
    main(parse(FuzzBenchmark, sys.argv[1:], "fuzz"))
