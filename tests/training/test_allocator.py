"""Freed memory is used again: counted by the page faults of a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from fer.training.worker import prepare_device

def step():
    return sum(float(torch.ones(10_000_000)[0]) for _ in range(3))  # 40 MB each

if sys.argv[1] == "reuse":
    prepare_device(torch.device("cpu"))
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's mallopt")
def test_freed_memory_is_used_again() -> None:
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", SCRIPT, mode], check=True, capture_output=True).stdout)
        for mode in ("default", "reuse")
    }
    assert faults["reuse"] < faults["default"] / 10, faults
