"""Inference on images in memory, shared by evaluation, prediction and serving."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer.classifier.preprocess import to_input
from fer.classifier.runtimes.base import Runtime
from fer.classifier.runtimes.choice import open_runtime
from fer.classifier.spec import ModelSpec
from fer.cpus import cpu_count
from fer.errors import UserError


@dataclass
class Predictions:
    """Predictions for N images; None where the model has no such head."""

    probabilities: np.ndarray | None
    """(N, K) float32 in the order of `Predictor.labels`; each row sums to 1."""
    valence_arousal: np.ndarray | None
    """(N, 2) float32, each in [-1, 1]."""


class Predictor:
    """A model, or an ensemble that averages probabilities and valence-arousal values.

    ``device`` is auto, cpu, gpu or a torch device (see `open_runtime`). ``tta`` averages each
    image's predictions with those of its mirror image. Raises UserError for a folder without a model, an ensemble with
    different labels, and an unavailable device.
    """

    def __init__(self, folders: Sequence[Path], device: str = "auto", tta: bool = False, batch_size: int = 64) -> None:
        if not folders:
            raise UserError("no model: give at least one model folder")
        self.tta, self.batch_size = tta, batch_size
        self.models = [open_runtime(Path(folder), device) for folder in folders]
        self.specs = [model.spec for model in self.models]
        self.device = self.models[0].device
        self.space = self.specs[0].space
        self.labels: tuple[str, ...] = self.space.labels
        for folder, spec in zip(folders, self.specs, strict=True):
            if tuple(spec.labels) != self.labels:
                raise UserError(
                    f"an ensemble needs models with the same labels in the same order: {folders[0]} has "
                    f"{', '.join(self.labels)}; {folder} has {', '.join(spec.labels)}"
                )
        self.has_expression = any(spec.has_expression for spec in self.specs)
        self.has_affect = any(spec.has_affect for spec in self.specs)
        self._threads = ThreadPoolExecutor(min(4, cpu_count()), thread_name_prefix="preprocess")

    def predict(self, images: Sequence[np.ndarray]) -> Predictions:
        """Predict for RGB images, each (H, W, 3) uint8 of any size. Thread-safe."""
        probabilities, affect = [], []
        for model, spec in zip(self.models, self.specs, strict=True):
            batches = [self._forward(model, pixels) for pixels in self._inputs(images, spec)]
            if spec.has_expression:
                probabilities.append(_join([batch.probabilities for batch in batches], len(self.labels)))
            if spec.has_affect:
                affect.append(_join([batch.valence_arousal for batch in batches], 2))
        return Predictions(_mean(probabilities), _mean(affect))

    def _inputs(self, images: Sequence[np.ndarray], spec: ModelSpec) -> Iterator[np.ndarray]:
        """Micro-batches (N, side, side, C) uint8, preprocessed on threads while the network computes."""
        inputs = self._threads.map(lambda image: to_input(image, spec), images)
        for start in range(0, len(images), self.batch_size):
            rows = min(self.batch_size, len(images) - start)
            yield np.stack([next(inputs) for _ in range(rows)])

    def _forward(self, model: Runtime, pixels: np.ndarray) -> Predictions:
        """The predictions for a micro-batch."""
        views = [pixels, np.ascontiguousarray(pixels[:, :, ::-1])] if self.tta else [pixels]
        outputs = [model(view) for view in views]
        return Predictions(
            _mean([_softmax(each.logits / model.spec.temperature) for each in outputs if each.logits is not None]),
            _mean([each.valence_arousal for each in outputs if each.valence_arousal is not None]),
        )


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _join(batches: list[np.ndarray | None], width: int) -> np.ndarray:
    return np.concatenate([np.empty((0, width), np.float32), *(batch for batch in batches if batch is not None)])


def _mean(members: list[np.ndarray]) -> np.ndarray | None:
    return np.stack(members).mean(axis=0, dtype=np.float32) if members else None
