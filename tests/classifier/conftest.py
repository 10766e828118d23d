"""Hand-made rows and shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer.data.images import encode_png
from fer.data.manifest import MANIFEST, Manifest, Shard, ShardedDataset, Split
from fer.data.schema import FACE_SCHEMA
from fer.labels import LabelSpace

Row = dict[str, Any]


@pytest.fixture
def make_rows() -> Callable[..., list[Row]]:
    """Makes rows with random images: labels in turn, numbered paths."""

    def make(labels: Sequence[str], count: int, **columns: Sequence[Any]) -> list[Row]:
        random = np.random.default_rng(0)
        rows = []
        for number in range(count):
            pixels = np.clip(random.normal(random.integers(40, 220), 60, (24, 24)), 0, 255).astype(np.uint8)
            row = {"image": encode_png(pixels), "label": labels[number % len(labels)], "path": f"faces/{number:04}.png"}
            rows.append(row | {name: values[number] for name, values in columns.items()})
        return rows

    return make


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., ShardedDataset]:
    """Writes rows as a sharded data set, two files per split, each one row group or of ``group_rows`` rows."""

    def make(
        splits: dict[str, list[Row]], space: LabelSpace, name: str = "faces", group_rows: int | None = None
    ) -> ShardedDataset:
        root, made = tmp_path / name, {}
        for split, rows in splits.items():
            shards = []
            for number, part in enumerate((rows[: len(rows) // 2], rows[len(rows) // 2 :])):
                path = f"split={split}/part-{number}.parquet"
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                size = group_rows or len(part)
                pq.write_table(pa.Table.from_pylist(part, FACE_SCHEMA), root / path, row_group_size=size)
                groups = [len(part[start : start + size]) for start in range(0, len(part), size)]
                shards.append(Shard(path=path, row_groups=groups))
            made[split] = Split(shards=shards, counts=Counter(row["label"] for row in rows))
        manifest = Manifest(
            source="hand-made", format="folder", label_space=space.name, labels=list(space.labels), splits=made,
            rejected={"empty file": 2}, content_hash="0" * 64, input_hash="",
        )  # fmt: skip
        (root / MANIFEST).write_text(manifest.model_dump_json())
        return ShardedDataset(str(root))

    return make
