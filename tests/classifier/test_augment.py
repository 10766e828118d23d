"""Augmentation: determined by the seed, geometry that does what it says, and labels mixed with the images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fer.classifier.augment import Augment, BatchAugment
from fer.classifier.options import AugmentOptions, ModelOptions
from fer.classifier.preprocess import resize

CPU = torch.device("cpu")
STILL = {"hflip": 0, "rotate": 0, "zoom": 0, "shift": 0, "brightness": 0, "contrast": 0}


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    rng = np.random.default_rng(0)
    return resize(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), 96)


def augment(side: int = 96, channels: int = 3, **options: float) -> Augment:
    return Augment(AugmentOptions(**{**STILL, **options}), ModelOptions(img_size=side, in_chans=channels))


def test_no_augmentation_changes_nothing(face) -> None:
    assert np.array_equal(augment()(face, seed=1), face)


@given(st.integers(0, 2**62))
@settings(max_examples=20, deadline=None)
def test_the_seed_determines_everything(seed) -> None:
    image = np.random.default_rng(seed % 1000).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    vary = Augment(AugmentOptions(auto_augment=True), ModelOptions(img_size=32))
    np.random.seed(seed % 7)  # global generators must not matter
    first = vary(image, seed)
    np.random.seed(seed % 11)
    assert np.array_equal(first, vary(image, seed))
    assert first.shape == (32, 32, 3)


def test_flip_mirrors(face) -> None:
    assert np.array_equal(augment(hflip=1)(face, seed=3), face[:, ::-1])


def test_half_a_turn_is_both_mirrors(face, monkeypatch) -> None:
    monkeypatch.setattr("fer.classifier.augment.Random.uniform", lambda self, low, high: high)
    assert np.array_equal(augment(rotate=180)(face, seed=0), face[::-1, ::-1])


def test_zoom_keeps_the_center(face) -> None:
    grey = np.zeros((97, 97, 3), np.uint8)
    grey[46:51, 46:51] = 255
    for seed in range(10):
        out = augment(side=97, zoom=0.3, rotate=45)(grey, seed)
        ys, xs = np.nonzero(out[..., 0] > 128)
        assert abs(ys.mean() - 48) < 0.6
        assert abs(xs.mean() - 48) < 0.6


def test_grey_input_has_one_channel(face) -> None:
    assert augment(side=40, channels=1)(face, seed=0).shape == (40, 40, 1)


def test_cutmix_and_mixup_mix_labels_with_images() -> None:
    images = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 3, 16, 16).clone()
    labels = torch.eye(7)[torch.arange(8) % 7]
    for options in (AugmentOptions(mixup=0.4), AugmentOptions(cutmix=1.0)):
        mixed, targets = BatchAugment(options, classes=7, device=CPU)(images.clone(), labels, seed=5)
        assert torch.allclose(targets.sum(1), torch.ones(8))
        assert not torch.equal(mixed, images)
        again, same = BatchAugment(options, classes=7, device=CPU)(images.clone(), labels, seed=5)
        assert torch.equal(mixed, again)
        assert torch.equal(targets, same)
        # The target of the own label is the fraction of own pixels; timm mixes image 1 with image 6, from the end.
        kept = float(targets[1, 1])
        assert mixed[1].mean().item() == pytest.approx(kept * 1 + (1 - kept) * 6, abs=1e-4)


def test_annotators_votes_are_mixed_like_labels() -> None:
    votes = torch.softmax(torch.randn(8, 7), dim=1)
    images = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 3, 16, 16).clone()
    mixed, targets = BatchAugment(AugmentOptions(mixup=0.4), classes=7, device=CPU)(images.clone(), votes, seed=5)
    kept = 1 - float(mixed[0, 0, 0, 0]) / 7  # image 0 is mixed with image 7
    assert 0 < kept < 1
    assert torch.allclose(targets, kept * votes + (1 - kept) * votes.flip(0), atol=1e-5)


def test_erasing_erases() -> None:
    images = torch.ones(4, 3, 32, 32)
    erased, targets = BatchAugment(AugmentOptions(random_erasing=1.0), classes=7, device=CPU)(
        images, torch.eye(7)[:4], seed=1
    )
    assert torch.equal(targets, torch.eye(7)[:4])
    assert (erased == 0).any()
