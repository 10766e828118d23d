"""What moved the score of a face: a map by occlusion."""

from __future__ import annotations

import cv2
import numpy as np

from fer.classifier.predictor import Predictor
from fer.classifier.preprocess import resize

MAX_SIDE = 224
"""Larger faces are reduced to this side, in pixels."""
WINDOW, BLUR = 5, 10
"""The patch's side and its blur (standard deviation) are the face's side divided by these."""


def explain(predictor: Predictor, face: np.ndarray, label: str) -> np.ndarray:
    """What each pixel of a face, RGB (H, W, 3) uint8, did to the score of ``label``: (S, S) float32.

    A blurred patch is moved over the face by half its side, and the score is computed for each place, about 100 in all
    (occlusion: Zeiler & Fergus, ECCV 2014). The value of a pixel is how much the probability of ``label`` falls when a
    patch covers it, averaged over these patches; in [-1, 1]. Positive: the pixel raised the score, negative: it lowered
    the score. This says what the network looked at, and nothing about the person.
    """
    import torch
    from captum.attr import Occlusion

    side = min(MAX_SIDE, max(face.shape[:2]))
    pixels = resize(face, side)
    blurred = cv2.GaussianBlur(pixels, (0, 0), max(1.0, side / BLUR))
    window = max(1, side // WINDOW)
    stride = max(1, window // 2)
    index = predictor.labels.index(label)

    def score(images: torch.Tensor) -> torch.Tensor:
        batch = images.permute(0, 2, 3, 1).to(torch.uint8).numpy()
        probabilities = predictor.predict(list(batch)).probabilities
        assert probabilities is not None, "there are labels"
        return torch.from_numpy(probabilities[:, index].copy())

    image, baseline = (torch.from_numpy(each).permute(2, 0, 1)[None].float() for each in (pixels, blurred))
    influence = Occlusion(score).attribute(
        image, (3, window, window), (3, stride, stride), baseline, perturbations_per_eval=32
    )
    return influence[0, 0].numpy()
