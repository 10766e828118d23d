"""Training throughput: a plain PyTorch script, Ferry with one worker, and the model alone on tensors in memory.

    python -m benchmarks.train_throughput

The three alternate, with the same network, batch size, optimizer, precision and threads. Results are medians over the
rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field

from fer.options import Options, parse


class ThroughputBenchmark(Options):
    """Compare the training throughput of Ferry with a plain script and with the model alone."""

    backbone: str = Field("resnet18", description="timm model")
    img_size: int = Field(96, ge=32, description="Side of the input, in pixels")
    rows: int = Field(1024, ge=512, description="Training images per epoch")
    batch_size: int = Field(64, ge=1, description="Images per step")
    rounds: int = Field(3, ge=1, description="Rounds, each of which runs all three once")
    loader_workers: int = Field(2, ge=0, description="Worker processes of the plain script's DataLoader")


def main(config: ThroughputBenchmark) -> None:
    from benchmarks.setup import rendered_faces, train_with_ferry

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        shards = rendered_faces(root, config.rows, size=config.img_size)
        rates: dict[str, list[float]] = {"plain": [], "ferry": [], "alone": []}
        for number in range(config.rounds):
            rates["plain"].append(images_per_second(config, list(plain_epochs(config, root / "faces"))))
            history = train_with_ferry(
                shards,
                root / "runs",
                f"round-{number}",
                backbone=config.backbone,
                img_size=config.img_size,
                batch_size=config.batch_size,
                epochs=3,
                opt="sgd",
            )
            # The first epoch includes starting Ray Data.
            rates["ferry"].append(statistics.median(epoch["images_per_second"] for epoch in history[1:]))
            rates["alone"].append(images_per_second(config, list(model_alone_epochs(config))))
            print({name: [round(rate) for rate in values] for name, values in rates.items()}, flush=True)
    median = {name: statistics.median(values) for name, values in rates.items()}
    labels = {"plain": "a  plain script, DataLoader", "ferry": "b  Ferry, one worker", "alone": "c  model alone"}
    for name, label in labels.items():
        spread = f"{min(rates[name]):.0f} to {max(rates[name]):.0f}"
        print(f"{label:<30}{median[name]:8.1f} images/s   ({spread})")
    print(f"b/a {median['ferry'] / median['plain']:.3f}   b/c {median['ferry'] / median['alone']:.3f}")


def images_per_second(config: ThroughputBenchmark, seconds: list[float]) -> float:
    """Median throughput of the epochs after the first."""
    batches = config.rows // config.batch_size
    return batches * config.batch_size / statistics.median(seconds[1:])


def plain_epochs(config: ThroughputBenchmark, faces: Path) -> Iterator[float]:
    """Seconds of each of three epochs of a plain training loop with torchvision's ImageFolder."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    augment = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomAffine(10, translate=(0.05, 0.05), scale=(0.9, 1.1)),
            transforms.ColorJitter(brightness=0.2, contrast=0.2),
            transforms.Resize((config.img_size, config.img_size)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    loader: DataLoader = DataLoader(
        ImageFolder(str(faces), augment),
        config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=config.loader_workers,
        persistent_workers=config.loader_workers > 0,
    )
    batches = config.rows // config.batch_size
    step = make_step(config, torch)
    for _ in range(3):
        yield timed(step, (batch for batch, _ in zip(loader, range(batches), strict=False)))


def model_alone_epochs(config: ThroughputBenchmark) -> Iterator[float]:
    """Seconds of each of three epochs on tensors in memory."""
    import torch

    tensors = [
        (torch.randn(config.batch_size, 3, config.img_size, config.img_size), torch.randint(0, 7, (config.batch_size,)))
        for _ in range(8)
    ]
    step = make_step(config, torch)
    for _ in range(3):
        yield timed(step, (tensors[i % 8] for i in range(config.rows // config.batch_size)))


def make_step(config: ThroughputBenchmark, torch):  # type: ignore[no-untyped-def]
    """A function that takes one training step, as in `fer train`."""
    import timm

    from fer.models.device import amp_dtype

    dtype = amp_dtype(torch.device("cpu"))
    model = timm.create_model(config.backbone, num_classes=7).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)

    def step(images, labels) -> None:  # type: ignore[no-untyped-def]
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def timed(step, batches: Iterable) -> float:  # type: ignore[no-untyped-def, type-arg]
    """Seconds that the steps on ``batches`` take."""
    started = time.perf_counter()
    for images, labels in batches:
        step(images, labels)
    return time.perf_counter() - started


if __name__ == "__main__":
    main(parse(ThroughputBenchmark, sys.argv[1:], "benchmark"))
