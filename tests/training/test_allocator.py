"""Freed memory is used again: counted by the page faults of a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from fer.training.worker import prepare_device

def count_page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        sum(float(torch.ones(10_000_000)[0]) for _ in range(3))  # 40 MB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(count_page_faults())
prepare_device(torch.device("cpu"))
count_page_faults()
print(count_page_faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's mallopt")
def test_freed_memory_is_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    default, prepared = map(int, done.stdout.split())
    assert prepared < default / 10
