"""Evaluation as a Ray task: the model runs where the GPU is, and its predictions are streamed back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayTaskError
from tqdm import tqdm

from fer.classifier.evaluate.evaluator import Evaluation, evaluate_batches
from fer.classifier.predictor import Predictor
from fer.data.manifest import ShardedDataset
from fer.errors import UserError
from fer.models.ray_device import cluster_gpus, task_resources
from fer.storage import absolute, fetch_folder

BATCHES_AHEAD = 64
"""Batches of predictions that wait for the driver."""


def evaluate_on_ray(
    folder: str,
    device: str,
    tta: bool,
    batch_size: int,
    dataset: ShardedDataset,
    split: str,
    pattern: str | None = None,
    *,
    sink: Callable[[pa.Table], None] = lambda _: None,
    **options: Any,
) -> Evaluation:
    """`evaluate` on a node with the device: a GPU for `gpu`, and for `auto` if the cluster has one.

    That node needs access to the model's folder, a path or URI, and the shards. Raises UserError as `evaluate` does.
    """
    gpus = cluster_gpus(device)
    model = (absolute(folder), "gpu" if gpus else "cpu", tta, batch_size)
    task = ray.remote(_evaluate).options(
        **task_resources(gpus), num_returns="streaming", _generator_backpressure_num_objects=BATCHES_AHEAD
    )
    try:
        with tqdm(total=dataset.split(split).rows, unit="row", disable=None) as progress:
            stream: Any = task.remote(model, dataset.root, split, pattern, options)
            for reference in stream:
                item = ray.get(reference)
                if isinstance(item, Evaluation):
                    return item
                sink(item)
                progress.update(len(item))
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    raise AssertionError("the last item is the evaluation")


def _evaluate(
    model: tuple[str, str, bool, int], root: str, split: str, pattern: str | None, options: dict[str, Any]
) -> Iterator[pa.Table | Evaluation]:
    folder, device, tta, batch_size = model
    predictor = Predictor([fetch_folder(folder)], device, tta, batch_size)
    yield (yield from evaluate_batches(predictor, ShardedDataset(root), split, pattern, **options))
