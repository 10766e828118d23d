"""Distillation (Hinton et al., 2015): trained classifiers whose softened probabilities a new one learns from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fer.classifier.model import load_model
from fer.classifier.options import TrainConfig
from fer.classifier.spec import ModelSpec
from fer.errors import UserError
from fer.models.folder import read_spec
from fer.registry import locate_model
from fer.storage import absolute, fetch_folder

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601), as OpenCV's."""


class Teacher:
    """One model, or several whose probabilities are averaged. Each sees the student's augmented images."""

    def __init__(
        self,
        folders: Sequence[str],
        student: ModelSpec,
        temperature: float,
        device: torch.device,
        amp: torch.dtype | None,
    ) -> None:
        self.student, self.temperature, self.amp = student, temperature, amp
        self.models = [load_model(fetch_folder(folder), device) for folder in folders]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The student's input (N, C, H, W) to softened probabilities (N, classes)."""
        softened = []
        for model, spec in self.models:
            with torch.autocast(images.device.type, self.amp, enabled=self.amp is not None):
                logits = model(convert(images, self.student, spec)).logits
            softened.append(F.softmax(logits / self.temperature, dim=-1))
        return torch.stack(softened).mean(0)


def convert(images: Tensor, student: ModelSpec, teacher: ModelSpec) -> Tensor:
    """Input of the student (N, C, H, W) as input of the teacher: its size, channels and normalisation."""
    pixels = images * _per_channel(student.std, images) + _per_channel(student.mean, images)
    channels, side = teacher.options.in_chans, teacher.options.img_size
    if pixels.shape[1] != channels:
        pixels = pixels.expand(-1, 3, -1, -1) if channels == 3 else (pixels * _per_channel(GREY, pixels)).sum(1, True)
    if pixels.shape[-1] != side:
        pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
    return (pixels - _per_channel(teacher.mean, images)) / _per_channel(teacher.std, images)


def _per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(1, -1, 1, 1)


def locate_teachers(config: TrainConfig, spec: ModelSpec) -> list[str]:
    """Where the workers find the models of ``--teacher``. Raises UserError for one that can't teach this student."""
    locations = [absolute(locate_model(teacher, config)) for teacher in config.teacher]
    for location in locations:
        taught = read_spec(fetch_folder(location), ModelSpec)
        if not taught.has_expression or taught.labels != spec.labels:
            known = ", ".join(taught.labels) if taught.has_expression else "valence and arousal only"
            raise UserError(
                f"--teacher {location} can't teach {', '.join(spec.labels)}, in this order: it has {known}; use "
                "--label-space to train with its labels"
            )
    return locations
