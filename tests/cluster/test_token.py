"""The token of a cluster: one for all that start at the same time, and for its user alone."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from tests.processes import environment

PROGRAM = "from cluster.token import TOKEN, make_token; make_token(); print(TOKEN.read_text())"


def test_processes_that_start_at_the_same_time_have_one_token(tmp_path: Path) -> None:
    own = environment(HOME=str(tmp_path))
    command = [sys.executable, "-c", PROGRAM]
    processes = [subprocess.Popen(command, env=own, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    printed = {process.communicate()[0].strip() for process in processes}
    (token,) = printed
    assert len(token) == 64
    (file,) = (tmp_path / ".ray").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
