"""MediaPipe's blendshape network in PyTorch: 146 landmarks to 52 blendshapes, with an MLP-Mixer.

The architecture is that of `face_blendshapes.tflite` (MediaPipe Face Landmarker, Apache-2.0); MLP-Mixer is Tolstikhin
et al., NeurIPS 2021. Unlike the tflite file, it can be fine-tuned.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fer.data.landmarks import INDICES
from fer.errors import UserError

BLENDSHAPES = 52
POINT_TOKENS, WIDTH, BLOCKS = 96, 64, 4
TOKENS = POINT_TOKENS + 1
TOKEN_HIDDEN, CHANNEL_HIDDEN = 384, 256


class BlendshapeNet(nn.Module):
    """Landmarks (N, 146, 2), in pixels of any image, to blendshapes (N, 52) in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Linear(len(INDICES), POINT_TOKENS)
        self.coordinates = nn.Linear(2, WIDTH)
        self.extra_token = nn.Parameter(torch.randn(WIDTH) * 0.02)
        self.blocks = nn.Sequential(*(MixerBlock() for _ in range(BLOCKS)))
        self.output = nn.Linear(WIDTH, BLENDSHAPES)

    def forward(self, landmarks: Tensor) -> Tensor:
        tokens = self.points(standardize(landmarks).mT).mT
        tokens = self.coordinates(tokens)
        extra = self.extra_token.expand(len(tokens), 1, WIDTH)
        mixed = self.blocks(torch.cat([extra, tokens], dim=1))
        return torch.sigmoid(self.output(mixed[:, 0]))


class MixerBlock(nn.Module):
    """An MLP over the tokens, then one over the channels. Keeps the shape (N, 97, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(WIDTH, eps=1e-6, bias=False)
        self.token_mlp = _mlp(TOKENS, TOKEN_HIDDEN)
        self.channel_norm = nn.LayerNorm(WIDTH, eps=1e-6, bias=False)
        self.channel_mlp = _mlp(WIDTH, CHANNEL_HIDDEN)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.token_mlp(self.token_norm(tokens).mT).mT
        return tokens + self.channel_mlp(self.channel_norm(tokens))


def standardize(landmarks: Tensor) -> Tensor:
    """Points (N, 146, 2) with position and scale removed: centred, and on average 0.5 from the centre."""
    centred = landmarks - landmarks.mean(dim=1, keepdim=True)
    scale = torch.linalg.vector_norm(centred, dim=2, keepdim=True).mean(dim=1, keepdim=True)
    return centred / scale * 0.5


def load_blendshapes(file: Path) -> dict[str, Tensor]:
    """Load weights written by `fer dynamics import-blendshapes`. Raises UserError for any other file."""
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"--blendshapes: can't read {file} ({error}); create it with `fer dynamics import-blendshapes`"
        ) from None
    expected = {name: value.shape for name, value in BlendshapeNet().state_dict().items()}
    if {name: value.shape for name, value in weights.items()} != expected:
        raise UserError(
            f"--blendshapes: {file} is not a blendshape network; create it with `fer dynamics import-blendshapes`"
        )
    return weights


def _mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
