"""Inference on images in memory, shared by evaluation, prediction and serving."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fer.classifier.model import FaceModel, ModelSpec, load_model
from fer.classifier.preprocess import normalize, to_input
from fer.errors import UserError
from fer.models.device import torch_device


@dataclass
class Predictions:
    """Predictions for N images; None where the model has no such head."""

    probabilities: np.ndarray | None
    """(N, K) float32 in the order of `Predictor.labels`; each row sums to 1."""
    valence_arousal: np.ndarray | None
    """(N, 2) float32, each in [-1, 1]."""


class Predictor:
    """A model, or an ensemble that averages probabilities and valence-arousal values.

    ``device`` is auto, cpu, gpu or a torch device; GPUs compute in bfloat16, CPUs in float32. ``tta`` averages each
    image's predictions with those of its mirror image. Raises UserError for a folder without a model, an ensemble with
    different labels, and an unavailable device.
    """

    def __init__(self, folders: Sequence[Path], device: str = "auto", tta: bool = False, batch_size: int = 64) -> None:
        if not folders:
            raise UserError("no model: give at least one model folder")
        self.device = torch_device(device)
        self.tta, self.batch_size = tta, batch_size
        loaded = [load_model(Path(folder), self.device) for folder in folders]
        self.models = [model.to(memory_format=torch.channels_last) for model, _ in loaded]  # type: ignore[call-overload]
        self.specs = [spec for _, spec in loaded]
        self.space = self.specs[0].space
        self.labels: tuple[str, ...] = self.space.labels
        for folder, spec in zip(folders, self.specs, strict=True):
            if tuple(spec.labels) != self.labels:
                raise UserError(
                    f"an ensemble needs models with the same labels in the same order: {folders[0]} has "
                    f"{', '.join(self.labels)}; {folder} has {', '.join(spec.labels)}"
                )
        self.has_expression = any(model.expression is not None for model in self.models)
        self.has_affect = any(model.affect is not None for model in self.models)
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="preprocess")

    def predict(self, images: Sequence[np.ndarray]) -> Predictions:
        """Predict for RGB images, each (H, W, 3) uint8 of any size. Thread-safe."""
        probabilities, affect = [], []
        for model, spec in zip(self.models, self.specs, strict=True):
            batches = [self._forward(model, spec, pixels) for pixels in self._inputs(images, spec)]
            if model.expression is not None:
                probabilities.append(_join([batch[0] for batch in batches], len(self.labels)))
            if model.affect is not None:
                affect.append(_join([batch[1] for batch in batches], 2))
        return Predictions(_mean(probabilities), _mean(affect))

    def _inputs(self, images: Sequence[np.ndarray], spec: ModelSpec) -> Iterator[Tensor]:
        """Micro-batches (N, side, side, C) uint8, preprocessed on threads while the network computes."""
        inputs = self._threads.map(lambda image: to_input(image, spec), images)
        for start in range(0, len(images), self.batch_size):
            rows = min(self.batch_size, len(images) - start)
            yield torch.from_numpy(np.stack([next(inputs) for _ in range(rows)]))

    @torch.inference_mode()
    def _forward(self, model: FaceModel, spec: ModelSpec, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (N, K) and valence-arousal (N, 2) of a micro-batch; (N, 0) for a missing head."""
        images = normalize(pixels.to(self.device, non_blocking=True), spec)
        views = [images, images.flip(3)] if self.tta else [images]
        probabilities, affect = [], []
        for view in views:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                outputs = model(view)
            missing = torch.empty(len(view), 0, device=self.device)
            logits = outputs.logits
            probabilities.append(missing if logits is None else (logits / spec.temperature).softmax(dim=1))
            affect.append(missing if outputs.valence_arousal is None else outputs.valence_arousal)
        return torch.stack(probabilities).mean(0).cpu(), torch.stack(affect).mean(0).cpu()


def _join(batches: list[Tensor], width: int) -> np.ndarray:
    return torch.cat([torch.empty(0, width), *batches]).numpy()


def _mean(members: list[np.ndarray]) -> np.ndarray | None:
    return np.stack(members).mean(axis=0, dtype=np.float32) if members else None
