"""Processes that a replica starts end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil

from tests.processes import running

PARENT = """
import subprocess, time
from serve_apps.child_processes import end_children_with_this_process
child = subprocess.Popen(["sleep", "600"])
watchdog = end_children_with_this_process()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_process_takes_its_children_with_it() -> None:
    with running([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
        child.wait(timeout=60)
