"""The dynamics model's batches. A few thousand frames of some 15 kB stay in memory, encoded: nothing is streamed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from fer.dynamics.augment import FrameAugment, FrameSample, unaugmented
from fer.dynamics.frames import FramePair
from fer.dynamics.options import DynamicsConfig
from fer.training.seeding import derive_seed

THREADS = 2
PREFETCH = 2
"""Batches that are augmented ahead of the one in use."""

FrameBatch = dict[str, Tensor]
"""flow_image (N, 3, 112, 112) in [0, 1]; expression and baseline (N, 146, 2) in pixels; scores (N, 2) in levels."""


class FramePairDataLoader:
    """One worker's training batches; order and augmentation are functions of seed, stage, epoch and rank."""

    def __init__(self, frames: Sequence[FramePair], config: DynamicsConfig, rank: int, world_size: int) -> None:
        self.frames, self.config, self.rank, self.world_size = frames, config, rank, world_size
        self.augment = FrameAugment(config)

    @property
    def batches_per_epoch(self) -> int:
        """Full batches of each worker; the frames left over differ from epoch to epoch."""
        return len(self.frames) // self.world_size // self.config.batch_size

    def train_batches(self, stage: int, epoch: int) -> Iterator[FrameBatch]:
        """The batches of one epoch of the stage with index ``stage``."""
        seed = derive_seed(self.config.seed, stage, epoch)
        order = np.random.default_rng(seed).permutation(len(self.frames))[self.rank :: self.world_size].tolist()
        size = self.config.batch_size

        def augment(row: int) -> FrameSample:
            return self.augment(self.frames[row], derive_seed(seed, row))

        with ThreadPoolExecutor(THREADS, thread_name_prefix="augment") as pool:
            pending: deque[tuple[list[int], Iterator[FrameSample]]] = deque()
            for start in range(0, self.batches_per_epoch * size, size):
                rows = order[start : start + size]
                pending.append((rows, pool.map(augment, rows)))
                if len(pending) > PREFETCH:
                    yield self._collate(*pending.popleft())
            while pending:
                yield self._collate(*pending.popleft())

    def _collate(self, rows: list[int], samples: Iterator[FrameSample]) -> FrameBatch:
        return collate_frames(list(samples), [self.frames[row] for row in rows])


def inference_batches(frames: Sequence[FramePair], batch_size: int) -> Iterator[FrameBatch]:
    """All frames in order, without augmentation."""
    for start in range(0, len(frames), batch_size):
        pairs = frames[start : start + batch_size]
        yield collate_frames([unaugmented(pair) for pair in pairs], pairs)


def collate_frames(samples: Sequence[FrameSample], pairs: Sequence[FramePair]) -> FrameBatch:
    """Samples as tensors; with ``scores`` if every frame is labelled."""
    images = torch.from_numpy(np.stack([sample.flow_image for sample in samples])).permute(0, 3, 1, 2)
    batch = {
        "flow_image": images.float() / 255,
        "expression": torch.from_numpy(np.stack([sample.expression for sample in samples])),
        "baseline": torch.from_numpy(np.stack([sample.baseline for sample in samples])),
    }
    if all(pair.scores is not None for pair in pairs):
        batch["scores"] = torch.tensor([pair.scores for pair in pairs], dtype=torch.float32)
    return batch
