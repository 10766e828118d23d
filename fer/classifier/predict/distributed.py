"""Prediction for many files, distributed over Ray actors."""

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
from fer.classifier.predict.pipeline import BATCH_SIZE, FilePredictor
from fer.classifier.predict.rows import PredictionRow
from fer.models.ray_device import cluster_gpus
from fer.storage import absolute, fetch_folder

MIN_FILES_PER_WORKER = 100  # with fewer files, a worker's start takes longer than it saves
MAX_BLOCKS = 1000
_rows = TypeAdapter(list[PredictionRow])


class PredictActor:
    """A `FilePredictor` for Ray Data: a batch of paths to a batch of rows as JSON."""

    def __init__(self, models: Sequence[str], options: PredictConfig, base: Path) -> None:
        self.predictor = FilePredictor([fetch_folder(model) for model in models], options, base)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = self.predictor.predict([str(path) for path in batch["path"]])
        return {"rows": np.array([_rows.dump_json(rows).decode() for rows in results], dtype=object)}


def predict_files_on_ray(
    models: Sequence[str], options: PredictConfig, base: Path, paths: Sequence[str]
) -> Iterator[list[PredictionRow]]:
    """The rows of each file in turn, computed by Ray actors; every node needs access to the ``models`` and the files.

    ``models`` are folders or their URIs. Raises UserError if the cluster does not have the GPUs that are asked for.
    """
    gpus = cluster_gpus(options.device, options.workers)
    max_workers = gpus or max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)
    options = options.model_copy(update={"device": "gpu" if gpus else "cpu"})
    workers = options.workers or min(max_workers, math.ceil(len(paths) / MIN_FILES_PER_WORKER))
    batch_size = min(BATCH_SIZE, math.ceil(len(paths) / workers / 4))

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns about disabled progress bars
    blocks = min(MAX_BLOCKS, math.ceil(len(paths) / batch_size))
    data = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=blocks)
    data.context.enable_progress_bars = False
    data.context.execution_options.preserve_order = True
    results = data.map_batches(
        PredictActor,
        fn_constructor_args=([absolute(model) for model in models], options, base),
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    for result in results.iter_rows():
        yield _rows.validate_json(result["rows"])
