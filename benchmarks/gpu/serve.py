"""A replica of `fer serve` with a classifier on the GPU: latency and throughput of requests with one face each."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.parts import Figures
from benchmarks.setup import rendered_faces, train_with_ferry

CLIENTS = 16


def run(machine: Machine, scratch: Path, figures: Figures) -> None:
    import httpx

    from cluster.ports import free_port
    from jobs.serve import running
    from serve_apps.options import ServeConfig

    backbone, side = ("resnet50", 224) if machine.gpus else ("test_resnet", 32)
    shards = rendered_faces(scratch, 128, size=side)
    options = {"backbone": backbone, "img_size": side, "batch_size": 32, "epochs": 1}
    train_with_ferry(shards, scratch / "runs", "model", device=machine.device, **options)
    before = free_memory(machine)
    config = ServeConfig(
        model=str(scratch / "runs" / "model"),
        apps=["classifier"],
        device=machine.device,
        port=free_port(),
        min_replicas=1,
        max_replicas=1,
        detector="none",
        max_batch_size=16,
        storage=str(scratch / "runs"),
    )
    face = next((scratch / "faces").rglob("*.jpg")).read_bytes()
    requests = 400 if machine.gpus else 32
    with running(config) as url, httpx.Client(base_url=url, timeout=60) as client:

        def ask(_: int) -> float:
            started = time.perf_counter()
            response = client.post("/v1/predict", files={"files": ("face.jpg", face, "image/jpeg")})
            assert response.status_code == 200, response.text
            return time.perf_counter() - started

        for number in range(8):
            ask(number)
        figures["one client, median latency, ms"] = 1000 * statistics.median(map(ask, range(requests // 4)))
        with ThreadPoolExecutor(CLIENTS) as threads:
            started = time.perf_counter()
            list(threads.map(ask, range(requests)))
            figures[f"{CLIENTS} clients, requests/s"] = requests / (time.perf_counter() - started)
        if machine.gpus:
            figures["memory of the replica, GB"] = before - free_memory(machine)


def free_memory(machine: Machine) -> float:
    """Free memory of the first GPU in GB; 0 without one."""
    return torch.cuda.mem_get_info(0)[0] / 1e9 if machine.gpus else 0.0
