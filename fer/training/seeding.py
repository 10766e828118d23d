"""Randomness as a function of position: a resumed run draws what it would have drawn, and saves no state for it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_LOCK = threading.Lock()


def mix(*numbers: int) -> int:
    """A 63-bit seed from small whole numbers such as (seed, epoch, step, rank); neighbours give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Seed the global generators of `random` and NumPy for a library that draws from them; restored afterwards.

    One thread at a time: the generators belong to the whole process.
    """
    with _LOCK:
        python_state, numpy_state = random.getstate(), np.random.get_state()
        random.seed(key)
        np.random.seed(key % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
