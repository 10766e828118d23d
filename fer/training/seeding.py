"""Seeds derived from the position in training: a resumed run draws the same random numbers without saved state."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_LOCK = threading.Lock()


def derive_seed(*numbers: int) -> int:
    """A 63-bit seed from integers such as (seed, epoch, step, rank); neighbouring values give independent seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def temporary_seed(seed: int) -> Iterator[None]:
    """Seed the global generators of `random` and NumPy inside the block, and restore their state afterwards.

    For libraries that draw from them. One thread at a time: the generators are global to the process.
    """
    with _LOCK:
        python_state, numpy_state = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
