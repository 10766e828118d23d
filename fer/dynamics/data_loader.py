"""The scorer's batches. A few thousand frames of some 15 kB are held in memory, encoded: there is nothing to stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from fer.dynamics.augment import Augment, Sample, plain
from fer.dynamics.frames import FramePair
from fer.dynamics.options import DynamicsConfig
from fer.training.seeding import derive_seed

THREADS = 2
AHEAD = 2
"""Batches that are made while the network learns from one."""

Batch = dict[str, Tensor]
"""pictures (N, 3, 112, 112) in [0, 1]; expression and baseline (N, 146, 2) in pixels; scores (N, 2) in levels."""


class Feed:
    """One worker's training batches; order and augmentation are functions of seed, stage, epoch and worker."""

    def __init__(self, frames: Sequence[FramePair], config: DynamicsConfig, rank: int, workers: int) -> None:
        self.frames, self.config, self.rank, self.workers = frames, config, rank, workers
        self.augment = Augment(config)

    @property
    def batches_per_epoch(self) -> int:
        """Full batches that every worker gets; the remainder differs from epoch to epoch."""
        return len(self.frames) // self.workers // self.config.batch_size

    def training(self, stage: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        seed = derive_seed(self.config.seed, stage, epoch)
        order = np.random.default_rng(seed).permutation(len(self.frames))[self.rank :: self.workers].tolist()
        size = self.config.batch_size
        batches = (order[start : start + size] for start in range(0, self.batches_per_epoch * size, size))
        with ThreadPoolExecutor(THREADS, thread_name_prefix="augment") as pool:
            waiting: deque[tuple[list[int], Iterator[Sample]]] = deque()
            for rows in batches:
                waiting.append(
                    (rows, pool.map(lambda row: self.augment(self.frames[row], derive_seed(seed, row)), rows))
                )
                if len(waiting) > AHEAD:
                    yield self._collate(*waiting.popleft())
            while waiting:
                yield self._collate(*waiting.popleft())

    def _collate(self, rows: list[int], samples: Iterator[Sample]) -> Batch:
        return collate(list(samples), [self.frames[row] for row in rows])


def judging(frames: Sequence[FramePair], batch_size: int) -> Iterator[Batch]:
    """All frames as they are, in their order."""
    for start in range(0, len(frames), batch_size):
        part = frames[start : start + batch_size]
        yield collate([plain(pair) for pair in part], part)


def collate(samples: Sequence[Sample], pairs: Sequence[FramePair]) -> Batch:
    """Samples to tensors; the scores are there if every frame has them."""
    pictures = torch.from_numpy(np.stack([sample.picture for sample in samples])).permute(0, 3, 1, 2)
    batch = {
        "pictures": pictures.float() / 255,
        "expression": torch.from_numpy(np.stack([sample.expression for sample in samples])),
        "baseline": torch.from_numpy(np.stack([sample.baseline for sample in samples])),
    }
    if all(pair.scores is not None for pair in pairs):
        batch["scores"] = torch.tensor([pair.scores for pair in pairs], dtype=torch.float32)
    return batch
