"""FixMatch (Sohn et al., NeurIPS 2020): unlabelled faces that a model is sure of teach it, seen with strong changes.

The moving average of the weights labels a face that is flipped and shifted at most; where its probability reaches the
threshold, the model in training is to say the same of the face after RandAugment and Cutout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from random import Random
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torch.nn import functional as F

from fer.classifier.augment import Augment
from fer.classifier.data_loader import Batch, DecodeImages, FaceDataLoader, collated
from fer.classifier.model import FaceModel
from fer.classifier.options import AugmentOptions, ModelOptions, TrainConfig
from fer.classifier.spec import ModelSpec
from fer.data.manifest import ShardedDataset
from fer.data.stream.reader import read_window
from fer.data.stream.sampler import Window, cut, row_groups, training_windows
from fer.training.seeding import derive_seed

WEAK, STRONG = "weak", "strong"
RAND_AUGMENT = "rand-n2-m9-mstd101-inc1"
"""timm's RandAugment: two of its operations, each at a magnitude drawn from 0 to 9 (mstd above 100).

At 10, posterizing would leave no bits, which Pillow refuses.
"""
CUTOUT, GREY = 0.5, 128
"""Side of the square that Cutout fills with grey, as a fraction of the image's, and the grey."""

Position = Sequence[tuple[int, int]]
"""Pairs (workers, labelled rows that each of them consumed) of an epoch."""


class PseudoLabels(NamedTuple):
    """What the moving average says of unlabelled faces."""

    labels: Tensor
    """(N,) int64: its likeliest classes."""
    sure: Tensor
    """(N,) bool: where their probability reaches the threshold."""

    def loss(self, logits: Tensor) -> Tensor:
        """Cross-entropy of the sure faces' logits (N, classes), over the number of all faces."""
        return (F.cross_entropy(logits, self.labels, reduction="none") * self.sure).mean()


@torch.no_grad()
def pseudo_labels(model: FaceModel, weak: Tensor, config: TrainConfig) -> PseudoLabels:
    """What ``model``, in evaluation mode, says of the weak views (N, C, H, W)."""
    logits = model(weak).logits
    assert logits is not None, "--unlabelled needs a classification head"
    probabilities, labels = logits.softmax(-1).max(-1)
    return PseudoLabels(labels, probabilities >= config.pseudo_threshold)


class StrongAugment(Augment):
    """RandAugment, the usual warp, and Cutout."""

    def __init__(self, options: AugmentOptions, model: ModelOptions) -> None:
        super().__init__(options, model)
        self.policy = rand_augment_transform(RAND_AUGMENT, {"img_mean": (GREY,) * 3})

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        image = super().__call__(image, seed)
        random, half = Random(~seed), round(CUTOUT * self.side / 2)
        row, column = random.randrange(self.side), random.randrange(self.side)
        image[max(0, row - half) : row + half, max(0, column - half) : column + half] = GREY
        return image


def weak_options(options: AugmentOptions) -> AugmentOptions:
    """Flip and shift alone."""
    off = {"rotate": 0.0, "zoom": 0.0, "brightness": 0.0, "contrast": 0.0, "auto_augment": False}
    return options.model_copy(update=off)


class TwoViews:
    """An Arrow table to a Batch of ``weak`` and ``strong`` pixels. Called on several threads, or in processes."""

    def __init__(self, spec: ModelSpec, config: TrainConfig) -> None:
        self.weak = DecodeImages(spec, Augment(weak_options(config), config))
        self.strong = DecodeImages(spec, StrongAugment(config, config))

    def __call__(self, table: pa.Table) -> Batch:
        return {WEAK: torch.from_numpy(self.weak(table)), STRONG: torch.from_numpy(self.strong(table))}


class UnlabelledLoader:
    """Unlabelled faces for one worker: for each labelled batch ``unlabelled_ratio`` times as many.

    Each epoch, and each part of one with another number of workers, has an order of its own, repeated if it is too
    short. So what comes next depends on the position in the labelled data alone.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        config: TrainConfig,
        spec: ModelSpec,
        rank: int,
        world_size: int,
        pin_memory: bool,
    ) -> None:
        self.config, self.spec, self.rank, self.world_size, self.pin_memory = config, spec, rank, world_size, pin_memory
        self.groups = row_groups(dataset, "train")
        self.rows = dataset.split("train").rows // world_size

    def beside(
        self, labelled: Iterator[Batch], epoch: int, consumed: Position, loader: FaceDataLoader
    ) -> Iterator[Batch]:
        """The batches that ``loader`` gives from a position on, each with its unlabelled images."""
        config = self.config
        start = [(self.world_size, 0)]
        positions = ((number, consumed if number == epoch else start) for number in range(epoch, config.epochs))
        windows = (
            window for number, place in positions for window in self.windows(number, place, loader.batches_left(place))
        )
        load, collate = partial(read_window, columns=["image"]), TwoViews(self.spec, config)
        size, processes = config.batch_size * config.unlabelled_ratio, config.decode == "processes"
        unlabelled = collated(windows, load, collate, size, config.decode_threads, processes, self.pin_memory)
        return (one | other for one, other in zip(labelled, unlabelled, strict=True))

    def windows(self, epoch: int, consumed: Position, batches: int) -> Iterator[Window]:
        """The windows of the next ``batches`` of an epoch."""
        rows = self.config.batch_size * self.config.unlabelled_ratio
        first = consumed[-1][1] * self.config.unlabelled_ratio
        endless = (window for repeat in count() for window in self._shuffled(epoch, len(consumed), repeat))
        return cut(endless, first, first + batches * rows)

    def _shuffled(self, epoch: int, part: int, repeat: int) -> Iterator[Window]:
        return training_windows(
            self.groups,
            seed=derive_seed(self.config.seed, epoch, part, repeat),
            epoch=epoch,
            rank=self.rank,
            world_size=self.world_size,
            rows=self.rows,
        )
