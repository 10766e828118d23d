"""Images without a face: their share of the batch, uniform targets, and that they are none."""

import numpy as np
import torch

from fer.classifier.augment import BatchAugment
from fer.classifier.non_faces import noise_like, replace_with_non_faces, shuffle_parts
from fer.classifier.options import AugmentOptions


def batch(side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.linspace(-1, 1, side * side).reshape(1, 1, side, side).repeat(20, 1, 1, 1)
    return images, torch.eye(8)[torch.arange(20) % 8]


def test_a_fraction_of_the_batch_gets_uniform_targets() -> None:
    images, targets = batch()
    changed, uniform = replace_with_non_faces(images, targets, 0.25, seed=3)
    assert torch.equal(uniform[:5], torch.full((5, 8), 1 / 8))
    assert torch.equal(uniform[5:], targets[5:])
    assert torch.equal(changed[5:], images[5:])
    assert all(not torch.equal(one, other) for one, other in zip(changed[:5], images[:5], strict=True))
    again, _ = replace_with_non_faces(images, targets, 0.25, seed=3)
    assert torch.equal(changed, again), "the seed determines them"


def test_a_small_batch_may_have_none() -> None:
    images, targets = batch()
    changed, kept = replace_with_non_faces(images[:2], targets[:2], 0.1, seed=0)
    assert torch.equal(changed, images[:2])
    assert torch.equal(kept, targets[:2])


def test_shuffled_parts_are_the_same_pixels_elsewhere() -> None:
    image = torch.arange(48.0 * 48).reshape(1, 48, 48)
    for seed in range(8):
        shuffled = shuffle_parts(image, np.random.default_rng(seed))
        assert torch.equal(shuffled.flatten().sort().values, image.flatten()), "48 is divisible by every grid"
        assert not torch.equal(shuffled, image)
        assert shuffle_parts(image[:, :47, :47], np.random.default_rng(seed)).shape == (1, 47, 47)


def test_noise_has_the_images_contrast_and_many_patterns() -> None:
    image = torch.randn(1, 64, 64) * 0.5 + 0.2
    noise = [noise_like(image, np.random.default_rng(seed)) for seed in range(20)]
    assert all(each.shape == image.shape for each in noise)
    assert all(each.std() < 3 * image.std() for each in noise)
    two_tones = [each for each in noise if len(each.unique()) <= 3]
    assert 3 < len(two_tones) < 17


def test_the_option_switches_it_on() -> None:
    images, targets = batch()
    _, changed = BatchAugment(AugmentOptions(non_faces=0.5), classes=8, device=torch.device("cpu"))(
        images, targets, seed=0
    )
    assert torch.equal(changed[:10], torch.full((10, 8), 1 / 8))
