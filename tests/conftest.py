"""What the whole suite shares: one Ray for the session, the real data where it is there, and a small data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets beside the project; tests that need it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One embedded Ray for all tests: a second driver in the same process could not authenticate."""
    import ray

    from cluster.embedded import connect

    connect(cpus=4)
    yield
    ray.shutdown()
