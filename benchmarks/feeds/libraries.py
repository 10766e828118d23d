"""Feeds of libraries: PyTorch's DataLoader on files, webdataset and Mosaic's StreamingDataset.

Each shuffles with a seed. They decode and augment with Ferry's functions, with a seed for each row and epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fer.data.images import decode_rgb

if TYPE_CHECKING:
    from benchmarks.train_feed import Feed, FeedBenchmark

SHARDS = 8


def library_feeds(root: Path, options: FeedBenchmark) -> dict[str, Feed]:
    """Feeds of the JPEG files in ``root/faces``, by the libraries that are installed."""
    files = sorted((root / "faces").rglob("*.jpg"))
    found: dict[str, Feed] = {"DataLoader, files": partial(file_batches, files, options)}
    if find_spec("webdataset"):
        found["webdataset"] = partial(tar_batches, write_tars(files, root), options)
    if find_spec("streaming"):
        found["StreamingDataset"] = partial(streaming_batches, write_streaming(files, root), options)
    return found


class Process:
    """An encoded image to Ferry's augmented pixels; ``row`` and ``epoch`` seed the augmentation."""

    def __init__(self, options: FeedBenchmark) -> None:
        from fer.classifier.augment import Augment
        from fer.classifier.options import TrainConfig

        config = TrainConfig(data="files", img_size=options.img_size, auto_augment=options.auto_augment)
        self.augment = Augment(config, config)

    def __call__(self, image: bytes, row: int, epoch: int) -> Tensor:
        return torch.from_numpy(self.augment(decode_rgb(image), row * 1000 + epoch))


class Files(Dataset[Tensor]):
    """Image files."""

    def __init__(self, files: list[Path], options: FeedBenchmark) -> None:
        self.files, self.process, self.epoch = files, Process(options), 0

    def __getitem__(self, row: int) -> Tensor:
        return self.process(self.files[row].read_bytes(), row, self.epoch)

    def __len__(self) -> int:
        return len(self.files)


def each_epoch(load: Callable[[int], Iterable[Tensor]], epochs: int) -> Iterator[Tensor]:
    """Batches of all epochs of a loader that is made for each epoch."""
    for epoch in range(epochs):
        yield from load(epoch)


def file_batches(files: list[Path], options: FeedBenchmark, parallel: int, epochs: int) -> Iterator[Tensor]:
    data = Files(files, options)

    def load(epoch: int) -> DataLoader[Tensor]:
        data.epoch = epoch
        order = torch.Generator().manual_seed(epoch)
        return DataLoader(data, options.batch_size, shuffle=True, drop_last=True, num_workers=parallel, generator=order)

    return each_epoch(load, epochs)


def write_tars(files: list[Path], root: Path) -> str:
    import webdataset

    folder = root / "tars"
    folder.mkdir()
    pattern = f"{folder}/%02d.tar"
    with webdataset.ShardWriter(pattern, maxcount=-(-len(files) // SHARDS), verbose=0) as writer:
        for row, file in enumerate(files):
            writer.write({"__key__": f"{row:06d}", "jpg": file.read_bytes()})
    return f"{folder}/{{00..{SHARDS - 1:02d}}}.tar"


def tar_batches(tars: str, options: FeedBenchmark, parallel: int, epochs: int) -> Iterator[Tensor]:
    import webdataset

    process = Process(options)

    def load(epoch: int) -> DataLoader[Tensor]:
        data = webdataset.WebDataset(tars, shardshuffle=SHARDS, seed=epoch, empty_check=False)
        data = data.shuffle(512, seed=epoch).map(lambda row: process(row["jpg"], int(row["__key__"]), epoch))
        return DataLoader(data, options.batch_size, drop_last=True, num_workers=parallel)

    return each_epoch(load, epochs)


def write_streaming(files: list[Path], root: Path) -> Path:
    from streaming import MDSWriter

    with MDSWriter(out=str(root / "mds"), columns={"image": "bytes", "row": "int"}, size_limit=2**21) as writer:
        for row, file in enumerate(files):
            writer.write({"image": file.read_bytes(), "row": row})
    return root / "mds"


def streaming_batches(folder: Path, options: FeedBenchmark, parallel: int, epochs: int) -> Iterator[Tensor]:
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()  # of the feed before
    process = Process(options)

    class Faces(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Tensor:
            row = super().__getitem__(at)
            return process(row["image"], row["row"], self.next_epoch)

    data = Faces(local=str(folder), shuffle=True, shuffle_seed=0, batch_size=options.batch_size)
    loader = StreamingDataLoader(data, batch_size=options.batch_size, drop_last=True, num_workers=parallel)
    return each_epoch(lambda _: loader, epochs)
