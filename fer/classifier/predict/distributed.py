"""Prediction for many files: the same reader, held by Ray actors."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import ray
import ray.data
from pydantic import TypeAdapter

from fer.classifier.predict.options import PredictConfig
from fer.classifier.predict.reader import BATCH, FileReader, PredictionRow

FILES_PER_WORKER = 100  # a worker that reads fewer costs more time to start than it saves
MAX_BLOCKS = 1000
_rows = TypeAdapter(list[PredictionRow])


class ReaderActor:
    """A `FileReader` for Ray Data: a batch of paths to a batch of rows, as JSON."""

    def __init__(self, folders: Sequence[Path], options: PredictConfig, base: Path) -> None:
        self.reader = FileReader(folders, options, base)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answers = self.reader([str(path) for path in batch["path"]])
        return {"rows": np.array([_rows.dump_json(rows).decode() for rows in answers], dtype=object)}


def predict_files_on_ray(
    folders: Sequence[Path], options: PredictConfig, base: Path, paths: Sequence[str]
) -> Iterator[list[PredictionRow]]:
    """The rows of each file in turn, computed by Ray actors. All nodes must reach ``folders`` and the files."""
    have = ray.cluster_resources()
    gpus = int(have.get("GPU", 0)) if options.device != "cpu" else 0
    most = gpus or max(1, int(have.get("CPU", 1)) - 1)
    workers = options.workers or min(most, math.ceil(len(paths) / FILES_PER_WORKER))
    batch_size = min(BATCH, math.ceil(len(paths) / workers / 4))

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns of what we ask for below
    blocks = min(MAX_BLOCKS, math.ceil(len(paths) / batch_size))
    data = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=blocks)
    data.context.enable_progress_bars = False
    data.context.execution_options.preserve_order = True
    answers = data.map_batches(
        ReaderActor,
        fn_constructor_args=([folder.absolute() for folder in folders], options, base),
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    for answer in answers.iter_rows():
        yield _rows.validate_json(answer["rows"])
