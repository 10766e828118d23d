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


@pytest.fixture(scope="session")
def small_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of rendered faces, 48 pixels: 7 classes, about 500 for training and 80 for validation."""
    from fer.data.options import PrepareOptions
    from fer.data.prepare import prepare
    from fer.data.synthetic import write_faces

    root = tmp_path_factory.mktemp("small")
    write_faces(root / "faces", per_class=84, size=48, seed=0)
    prepare(PrepareOptions(data=str(root / "faces"), out=str(root / "shards"), val_split=0.15))
    return root / "shards"
