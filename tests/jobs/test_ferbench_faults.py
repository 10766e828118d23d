"""`fer ferbench run` with processes that are killed: the results are the same."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import main
from tests.fixtures.ferbench import image_of, respond, results, run

ROOT = Path(__file__).parents[2]


@pytest.mark.faults
@pytest.mark.slow
def test_a_killed_worker_is_replaced(
    workspace: Path, ray_cluster: None, own_processes: Callable[[str], list[int]]
) -> None:
    """Its process is killed after some responses; the results are the same in the end."""
    assert run("one", "--device", "cpu", "--name", "undisturbed") == 0
    many = results("sfew_qa.json") * 30
    (workspace / "many.json").write_text(json.dumps(many))
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            journals = list(Path("out/killed/journal").glob("*.jsonl"))
            if journals and len(journals[0].read_bytes().splitlines()) > 100:
                for pid in own_processes("MapWorker"):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                if killed:
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    assert run("one", "--device", "cpu", "--name", "killed", "--max-bad-fraction", "1", questions="many.json") == 0
    thread.join()
    assert killed
    assert results("out/killed/many.json") == results("out/undisturbed/sfew_qa.json") * 30


@pytest.mark.faults
@pytest.mark.slow
def test_a_run_that_is_killed_three_times_has_the_same_results(
    shared_data: Path, tmp_path: Path, chat_server: Callable[..., Any]
) -> None:
    """Questions of FERPlus, killed at random moments: only running requests are repeated, and none is lost."""
    server = chat_server(respond)
    concurrency, count = 8, 1200
    questions = json.loads((shared_data / "ferbench/ferplus_qa.json").read_text())[:count]
    (tmp_path / "ferplus_qa.json").write_text(json.dumps(questions))

    def command(out: str) -> list[str]:
        return [
            *("ferbench", "run", "m", "--endpoint", server.url, "--concurrency", str(concurrency)),
            *("--questions", str(tmp_path / "ferplus_qa.json"), "--image-size", "0"),
            *("--image-root", str(shared_data / "ferplus/ferplus_test_images.zip"), "--out", str(tmp_path / out)),
        ]

    draws = random.Random()
    stops = sorted(draws.sample(range(100, count - 100), 3))
    for stop in stops:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs", *command("killed")],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while len(server.requests) < stop:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert main(command("killed")) == 0
    sent = Counter(hashlib.sha256(image_of(request)).digest() for request in server.requests)
    assert len(server.requests) <= count + 3 * concurrency, f"stopped at {stops}"

    server.requests.clear()
    assert main(command("undisturbed")) == 0
    assert sent.keys() == {hashlib.sha256(image_of(request)).digest() for request in server.requests}
    one, other = (tmp_path / name / "m/ferplus_qa.json" for name in ("killed", "undisturbed"))
    assert one.read_bytes() == other.read_bytes()
    assert len(results(str(one))) == count
