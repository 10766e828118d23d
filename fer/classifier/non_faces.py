"""Images that show no face, made from a batch of faces: training on them teaches a model to be unsure.

Outlier exposure (Hendrycks, Mazeika & Dietterich, ICLR 2019): the target of such an image is the uniform distribution.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

GRIDS = (3, 4, 6)
"""Parts per side into which a face is cut before they are shuffled."""
BLOBS = (2, 24)
"""Smallest and largest number of blobs per side of a noise image."""


def replace_with_non_faces(images: Tensor, targets: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Replace the first ``fraction`` of a shuffled batch: images (N, C, H, W) and targets (N, classes).

    Half of them are faces whose parts are shuffled, half is noise, smooth or in two tones. ``seed`` determines them.
    """
    count = round(fraction * len(images))
    rng = np.random.default_rng(seed)
    replaced = [shuffle_parts(image, rng) if rng.random() < 0.5 else noise_like(image, rng) for image in images[:count]]
    uniform = torch.full_like(targets[:count], 1 / targets.shape[1])
    return torch.cat([torch.stack(replaced), images[count:]]) if replaced else images, torch.cat(
        [uniform, targets[count:]]
    )


def shuffle_parts(image: Tensor, rng: np.random.Generator) -> Tensor:
    """The image (C, H, W), cut into a grid whose cells are shuffled; pixels beyond the last whole cell are cut off."""
    grid = int(rng.choice(GRIDS))
    channels, height, width = image.shape
    cells = image[:, : height - height % grid, : width - width % grid]
    cells = cells.reshape(channels, grid, height // grid, grid, width // grid).permute(1, 3, 0, 2, 4).flatten(0, 1)
    order = torch.from_numpy(rng.permutation(grid * grid)).to(image.device)
    cells = cells[order].unflatten(0, (grid, grid)).permute(2, 0, 3, 1, 4)
    mixed = cells.reshape(1, channels, height - height % grid, width - width % grid)
    return F.interpolate(mixed, size=(height, width))[0] if mixed.shape[2:] != image.shape[1:] else mixed[0]


def noise_like(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Noise (C, H, W) with the image's mean and contrast: smooth blobs, in half of the cases in two tones."""
    channels, *size = image.shape
    blobs = int(rng.integers(*BLOBS, endpoint=True))
    values = torch.from_numpy(rng.standard_normal((1, channels, blobs, blobs), dtype=np.float32)).to(image.device)
    noise = F.interpolate(values, size=size, mode="bilinear")[0]
    if rng.random() < 0.5:
        noise = noise.sign()
    return noise * image.std() + image.mean()
