"""Memory of a training process on CPUs."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt`` (malloc.h)."""
NEVER = 2**31 - 1


def reuse_freed_memory() -> None:
    """Have glibc keep what this process frees, for its next allocations. Other C libraries are left as they are.

    Each training step on a CPU frees and allocates the same activations. By default, glibc gives blocks of their size
    back to the system, which clears every page before it is used again: a seventh of the step's time
    (docs/performance.md, "Classifier"). The process then holds the most that it ever used until it ends; only on
    threads other than the main one, where Ray runs a training function, glibc still gives back what is wholly free.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(parameter, NEVER)
