"""How Ray Serve is set up in each of its processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from uvicorn import Config

from cluster.serve import serve_settings

PROGRAM = """
import sys

from cluster.serve import import_serve

import_serve()
print("ray.serve" in sys.modules, "pandas" in sys.modules)
import pandas

print(pandas.DataFrame({"a": [1, 2]})["a"].sum())
import_serve()
"""


def test_serve_does_without_pandas_and_other_code_does_not() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "False", "3"]


@pytest.mark.skipif("FERRY_HAPROXY" not in serve_settings(), reason="HAProxy is not installed")
def test_a_replica_learns_the_clients_address_from_haproxy_on_another_node(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = []

    async def replica(scope: Any, receive: Any, send: Any) -> None:
        clients.append(scope["client"][0])

    monkeypatch.setenv("FORWARDED_ALLOW_IPS", serve_settings()["FORWARDED_ALLOW_IPS"])
    config = Config(replica, interface="asgi3", lifespan="off")  # as Serve makes it
    config.load()
    scope = {"type": "http", "client": ("10.0.0.2", 40_000), "headers": [(b"x-forwarded-for", b"203.0.113.9")]}
    asyncio.run(config.loaded_app(scope, None, None))  # type: ignore[arg-type]
    assert clients == ["203.0.113.9"]
