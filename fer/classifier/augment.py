"""Augmentation of training images, seeded by row: the same on every thread and machine.

Flip, rotation, zoom and shift are one affine warp, so an image is resampled once; OpenCV releases the GIL.
AutoAugment, erasing, mixup and cutmix are timm's.
"""

from __future__ import annotations

import math
from random import Random

import cv2
import numpy as np
import torch
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import auto_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from fer.classifier.non_faces import replace_with_non_faces
from fer.classifier.options import AugmentOptions, ModelOptions
from fer.classifier.preprocess import resize, to_channels
from fer.training.seeding import temporary_seed


class Augment:
    """RGB (H, W, 3) uint8 of any size to an augmented (side, side, C) uint8, determined by ``seed``."""

    def __init__(self, options: AugmentOptions, model: ModelOptions) -> None:
        self.options, self.side, self.channels = options, model.img_size, model.in_chans
        self.policy = (
            auto_augment_transform("original", {"img_mean": (128, 128, 128)}) if options.auto_augment else None
        )

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        random = Random(seed)
        if self.policy is not None:
            with temporary_seed(seed):
                image = np.asarray(self.policy(Image.fromarray(image)))
        image = to_channels(image, self.channels)
        if max(image.shape[:2]) > self.side:
            image = resize(image, self.side)
        image = cv2.warpAffine(
            image,
            self._warp_matrix(image.shape[1], image.shape[0], random),
            (self.side, self.side),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        image = cv2.LUT(image, self._tone_curve(random))
        return image.reshape(self.side, self.side, self.channels)

    def _warp_matrix(self, width: int, height: int, random: Random) -> np.ndarray:
        """Affine matrix (2, 3) from image pixels to input pixels."""
        options, side = self.options, self.side
        angle = math.radians(random.uniform(-options.rotate, options.rotate))
        zoom = 1 + random.uniform(-options.zoom, options.zoom)
        flip = -1 if random.random() < options.hflip else 1
        shift = [random.uniform(-options.shift, options.shift) * side for _ in range(2)]
        cosine, sine = math.cos(angle) * zoom * side, math.sin(angle) * zoom * side
        linear = np.array([[flip * cosine / width, -sine / height], [flip * sine / width, cosine / height]])
        from_center = np.array([(width - 1) / 2, (height - 1) / 2])
        to_center = np.array([(side - 1) / 2 + shift[0], (side - 1) / 2 + shift[1]])
        return np.column_stack([linear, to_center - linear @ from_center])

    def _tone_curve(self, random: Random) -> np.ndarray:
        """Look-up table (256,) uint8 that changes brightness, and contrast around mid-grey."""
        contrast = 1 + random.uniform(-self.options.contrast, self.options.contrast)
        brightness = random.uniform(-self.options.brightness, self.options.brightness) * 255
        return np.clip((np.arange(256) - 127.5) * contrast + 127.5 + brightness, 0, 255).astype(np.uint8)


class BatchAugment:
    """Augmentation of a normalised batch: timm's random erasing, mixup and cutmix, and images that show no face."""

    def __init__(self, options: AugmentOptions, classes: int, device: torch.device) -> None:
        self.non_faces = options.non_faces
        self.erasing = (
            RandomErasing(options.random_erasing, mode="const", device=device) if options.random_erasing else None
        )
        self.mixup = (
            Mixup(options.mixup, options.cutmix, label_smoothing=0.0, num_classes=classes, multi_label=True)
            if options.mixup or options.cutmix
            else None
        )

    def __call__(self, images: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and the distributions of their labels (N, classes) to the same, changed."""
        with temporary_seed(seed):
            if self.erasing is not None:
                images = self.erasing(images)
            if self.mixup is not None:
                images, targets = self.mixup(images, targets)
        if self.non_faces:
            images, targets = replace_with_non_faces(images, targets, self.non_faces, seed)
        return images, targets
