"""Which device the Ray tasks of evaluation and prediction run on."""

from __future__ import annotations

import sys
from typing import Any

import ray

from fer.errors import UserError


def cluster_gpus(device: str, workers: int = 0) -> int:
    """The GPUs of the cluster for ``--device``: 0 for `cpu`, and for `auto` in a cluster without, which is said.

    Raises UserError for `gpu` without one, and for fewer than ``workers``. Where there are GPUs, `auto` never computes
    on CPUs: it waits while they are in use.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0)) if device != "cpu" else 0
    if device == "gpu" and not gpus:
        raise UserError("--device gpu: the cluster has no GPU; use --device cpu, or add a node with one")
    if gpus and workers > gpus:
        raise UserError(f"--workers {workers}: the cluster has {gpus} GPUs; use fewer workers, or --device cpu")
    if device == "auto" and not gpus:
        print("Ray has no GPU here: the model runs on CPUs.", file=sys.stderr)
    return gpus


def task_resources(gpus: int) -> dict[str, Any]:
    """Resources of one task; says so if it has to wait for them."""
    needed = {"CPU": 1, "GPU": 1} if gpus else {"CPU": 1}
    free = ray.available_resources()
    if missing := [f"a {name}" for name, number in needed.items() if free.get(name, 0) < number]:
        print(f"All of the cluster is in use: waiting for {' and '.join(missing)}.", file=sys.stderr)
    return {"num_cpus": 1, "num_gpus": needed.get("GPU", 0)}
