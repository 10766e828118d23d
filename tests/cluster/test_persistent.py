"""Starting a cluster that outlives its command, without Ray."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster import persistent
from tests.waiting import until


def test_a_start_that_is_interrupted_leaves_no_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def interrupt(url: str) -> bool:
        found.append(persistent._running())
        raise KeyboardInterrupt

    monkeypatch.setattr(persistent, "STATE", tmp_path)
    monkeypatch.setattr(persistent, "make_token", lambda: None)
    monkeypatch.setattr(persistent, "command", lambda config: [sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(persistent, "_answers", interrupt)
    with pytest.raises(KeyboardInterrupt):
        persistent.start(persistent.StartConfig())
    [node] = found
    assert node is not None, "from the first moment on, `fer cluster stop` could end it"
    until(lambda: persistent._running() is None)
