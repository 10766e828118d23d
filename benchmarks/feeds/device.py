"""Feeds that decode and augment whole batches on the device: torchvision with Kornia, and NVIDIA's DALI.

On a GPU, both decode with nvJPEG; without one, they do the same on CPUs. The augmentation is their own, chosen to be
like Ferry's; Kornia draws AutoAugment's policy once for a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg

from fer.classifier.options import AugmentOptions

if TYPE_CHECKING:
    from benchmarks.train_feed import Feed, FeedBenchmark

GPU = torch.cuda.is_available()
PLACE = "GPU" if GPU else "CPUs"


def device_feeds(root: Path, options: FeedBenchmark) -> dict[str, Feed]:
    """Feeds of the JPEG files in ``root/faces``, by the libraries that are installed."""
    files = sorted((root / "faces").rglob("*.jpg"))
    found: dict[str, Feed] = {}
    if find_spec("kornia"):
        found[f"torchvision and Kornia, {PLACE}"] = partial(kornia_batches, files, options)
    if find_spec("nvidia") and find_spec("nvidia.dali"):
        found[f"DALI, {PLACE}"] = partial(dali_batches, files, options)
    return found


class EncodedFiles(Dataset[bytes]):
    """The content of image files."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __getitem__(self, row: int) -> bytes:
        return self.files[row].read_bytes()

    def __len__(self) -> int:
        return len(self.files)


def kornia_batches(files: list[Path], options: FeedBenchmark, parallel: int, epochs: int) -> Iterator[Tensor]:
    """Processes read the files; this one decodes them and augments."""
    augment, data = kornia_augment(options), EncodedFiles(files)
    for epoch in range(epochs):
        order = torch.Generator().manual_seed(epoch)
        loader = DataLoader(
            data,
            options.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=parallel,
            generator=order,
            collate_fn=list,
        )
        for number, encoded in enumerate(loader):
            torch.manual_seed(epoch * 1_000_000 + number)
            buffers = [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in encoded]
            images = decode_jpeg(buffers, ImageReadMode.RGB, device="cuda" if GPU else "cpu")
            pixels = augment(torch.stack(images).float() / 255)
            yield (pixels * 255).byte().permute(0, 2, 3, 1)


def kornia_augment(options: FeedBenchmark) -> nn.Module:
    """Images (N, 3, side, side) in [0, 1] to the same."""
    from kornia import augmentation as kornia
    from kornia.augmentation.auto import AutoAugment

    values = AugmentOptions()
    policy = [AutoAugment("imagenet")] if options.auto_augment else []
    return nn.Sequential(
        *policy,
        kornia.RandomHorizontalFlip(values.hflip),
        kornia.RandomAffine(
            values.rotate,
            translate=(values.shift, values.shift),
            scale=(1 - values.zoom, 1 + values.zoom),
            padding_mode="reflection",
            p=1.0,
        ),
        kornia.RandomBrightness((1 - values.brightness, 1 + values.brightness), p=1.0),
        kornia.RandomContrast((1 - values.contrast, 1 + values.contrast), p=1.0),
    )


def dali_batches(files: list[Path], options: FeedBenchmark, parallel: int, epochs: int) -> Iterator[Tensor]:
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.auto_aug import auto_augment

    side = options.img_size
    place = {"num_threads": parallel, "device_id": 0 if GPU else None}

    @pipeline_def(batch_size=options.batch_size, seed=0, enable_conditionals=True, **place)
    def pipeline() -> Any:
        encoded, _ = fn.readers.file(files=[str(file) for file in files], random_shuffle=True, initial_fill=512, seed=0)
        images = fn.decoders.image(encoded, device="mixed" if GPU else "cpu", output_type=types.RGB)
        if options.auto_augment:
            images = auto_augment.auto_augment_image_net(images, shape=(side, side))
        images = fn.flip(images, horizontal=fn.random.coin_flip())
        images = fn.rotate(images, angle=fn.random.uniform(range=(-10.0, 10.0)), keep_size=True)
        images = fn.resize(images, size=(side, side))
        return fn.brightness_contrast(
            images, brightness=fn.random.uniform(range=(0.8, 1.2)), contrast=fn.random.uniform(range=(0.8, 1.2))
        )

    built = pipeline()
    built.build()
    for _ in range(epochs * (len(files) // options.batch_size)):
        (images,) = built.run()
        yield torch.from_dlpack(images.as_tensor()).clone()
