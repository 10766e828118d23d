"""Hosts in namespaces, for the scripts of this folder: with their own addresses and folders, and a cable to pull."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.hosts import ISOLATED

PROGRAM = """
import os, subprocess
from tests.fixtures.hosts import make_hosts

first, second = make_hosts(2)

def on(host, program):
    command = host.command(["sh", "-c", program], {"PATH": os.environ["PATH"]})
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()

connect = f"timeout 1 bash -c '< /dev/tcp/{second.address}/1' 2>&1 | tail -n 1"
print(on(first, "echo $(hostname) $(hostname -I); touch /tmp/mine"), on(second, "ls /tmp"))
print(on(first, connect))
second.cut_off()
print(on(first, connect))
second.reconnect()
print(on(first, connect))
"""


def test_hosts_have_their_own_folders_and_reach_each_other_until_one_is_cut_off() -> None:
    if subprocess.run([*ISOLATED, "true"], capture_output=True).returncode:
        pytest.skip("namespaces are not allowed here")
    done = subprocess.run(
        [*ISOLATED, sys.executable, "-c", PROGRAM], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    own, *attempts = done.stdout.splitlines()
    assert own.split() == ["host1", "10.77.0.1"]
    assert ["refused" in attempt for attempt in attempts] == [True, False, True], "an answer is a refusal"
