"""Shared by the benchmarks: synthetic data, and a training run with its throughput."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2

from fer.data.images import decode_rgb
from fer.data.manifest import MANIFEST, Manifest
from fer.data.options import PrepareOptions
from fer.data.prepare import prepare
from fer.data.synthetic import write_faces


def rendered_faces(root: Path, rows: int, size: int, val_split: float = 0.05) -> Path:
    """Render about ``rows`` faces as JPEG files in ``root/faces``, and prepare shards of them, which are returned."""
    write_faces(root / "faces", per_class=-(-rows // 7), size=size)
    for file in (root / "faces").rglob("*.png"):
        pixels = cv2.cvtColor(decode_rgb(file.read_bytes()), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(file.with_suffix(".jpg")), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
        file.unlink()
    prepare(PrepareOptions(data=str(root / "faces"), out=str(root / "shards"), val_split=val_split))
    return root / "shards"


def repeat_training_split(shards: Path, times: int, out: Path) -> Path:
    """Copy shards to ``out``, with every row of the training split ``times`` times."""
    shutil.copytree(shards, out)
    manifest = Manifest.model_validate_json((out / MANIFEST).read_text())
    split = manifest.splits["train"]
    first = list(split.shards)
    for copy in range(1, times):
        for shard in first:
            path = shard.path.replace("part-", f"part-{copy:03d}-")
            shutil.copy(out / shard.path, out / path)
            split.shards.append(shard.model_copy(update={"path": path}))
    split.counts = {label: rows * times for label, rows in split.counts.items()}
    (out / MANIFEST).write_text(manifest.model_dump_json())
    return out


def train_with_ferry(shards: Path, out: Path, name: str, **options: Any) -> list[dict[str, float]]:
    """Run `fer train` on ``shards``; returns each epoch's metrics, with ``images_per_second`` and ``data_wait``."""
    from fer.classifier.options import TrainConfig
    from jobs.train import main

    config = TrainConfig(data=str(shards), storage=str(out), name=name, **options)
    main(config)
    return json.loads((out / name / "history.json").read_text())
