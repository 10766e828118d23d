"""A real server withstands what nobody should send: a small part of `python -m benchmarks.serving.fuzz`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from benchmarks.serving import fuzz, fuzz_images
from cluster.ports import free_port

pytestmark = pytest.mark.slow

EXAMPLES, IMAGES = 15, 150


@pytest.fixture(scope="module")
def server_options() -> dict[str, Any]:
    """Without a token, with which most requests would not be read."""
    return {"port": free_port(), "max_replicas": 1, "max_upload_seconds": 1}


@pytest.fixture(scope="module")
def target(start_live: Callable[..., str], server_options: dict[str, Any]) -> fuzz.Target:
    config = fuzz.FuzzBenchmark(examples=EXAMPLES, images=IMAGES)
    return fuzz.Target(start_live(), ("127.0.0.1", server_options["port"]), fuzz_images.images()[0], config)


@pytest.mark.parametrize("part", [part for part in fuzz.PARTS if not part.startswith("slow")])
def test_everything_is_answered_and_nothing_with_500(target: fuzz.Target, part: str) -> None:
    if part == "generated from OpenAPI":
        pytest.importorskip("schemathesis")
    results = list(fuzz.PARTS[part](target))
    assert len(results) > 30
    assert not [result for result in results if result.wrong]
    assert httpx.get(f"{target.url}/healthz", timeout=60).status_code == 200
    assert fuzz.answer(target.url, target.photo)
