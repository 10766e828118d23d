"""A classifier: how fast faces are read and augmented, how fast the network is, and `fer train` with both."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.parts import Figures
from benchmarks.setup import rendered_faces, train_with_ferry
from fer.cpus import cpu_count
from fer.models.device import amp_dtype

STEPS, WARMUP = 20, 5


def run(machine: Machine, scratch: Path, figures: Figures) -> None:
    """ResNet-50 at 224 pixels in batches of 256; on CPUs a test network at 32 in batches of 32."""
    backbone, side, batch, rows = ("resnet50", 224, 256, 4096) if machine.gpus else ("test_resnet", 32, 32, 256)
    device = machine.torch_device
    for name, compiled in (("network alone", False), ("network alone, torch.compile", True)):
        rate, start = network_alone(backbone, side, batch, device, compiled)
        figures[f"{name}, images/s"] = rate
        if compiled:
            figures["torch.compile, first step, s"] = start
    if machine.gpus:
        torch.cuda.empty_cache()

    shards = rendered_faces(scratch, rows, size=side)
    threads = min(16, cpu_count()) if machine.gpus else 2
    options = {"backbone": backbone, "img_size": side, "batch_size": batch, "epochs": 3, "decode_threads": threads}
    figures["reading and augmenting alone, images/s"] = feed_alone(shards, options)
    for name, compiled in (("fer train", False), ("fer train --compile", True)):
        run = f"compiled-{compiled}".lower()
        history = train_with_ferry(shards, scratch / "runs", run, device=machine.device, compile=compiled, **options)
        figures[f"{name}, images/s"] = history[-1]["images_per_second"]  # graphs are compiled in the epochs before
        figures[f"{name}, share of time that waits for data"] = history[-1]["data_wait"]
        figures[f"{name}, last loss"] = history[-1]["train_loss"]


def network_alone(backbone: str, side: int, batch: int, device: torch.device, compiled: bool) -> tuple[float, float]:
    """Images per second of training steps on one batch in memory, and the seconds of the first step."""
    import timm

    torch.manual_seed(0)
    model: Any = timm.create_model(backbone, num_classes=7).to(device, memory_format=torch.channels_last).train()
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 7, (batch,), device=device)
    dtype = amp_dtype(device)

    def step() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logits = forward(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def seconds(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    first = seconds(1)
    seconds(WARMUP)
    return batch * STEPS / seconds(STEPS), first


def feed_alone(shards: Path, options: dict[str, Any]) -> float:
    """Images per second of the data loader, while nobody trains."""
    from cluster.local import connect
    from fer.classifier.data_loader import FaceDataLoader
    from fer.classifier.model import new_spec
    from fer.classifier.options import TrainConfig
    from fer.data.manifest import ShardedDataset

    config, dataset = TrainConfig(data=str(shards), **options), ShardedDataset(str(shards))
    connect(cpus=config.required_cpus)
    loader = FaceDataLoader(dataset, config, new_spec(config, dataset.manifest.space), rank=0, world_size=1)
    images, started = 0, 0.0
    for number, batch in enumerate(loader.train_batches(0, [(1, 0)])):
        if number == 0:  # its time is that of Ray Data's start
            started = time.perf_counter()
        else:
            images += len(batch["label"])
    return images / (time.perf_counter() - started)
