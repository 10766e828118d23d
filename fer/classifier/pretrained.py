"""Weights to start from: the driver loads or prunes them once, and the workers get them from Ray's object store.

A restarted worker gets them there too. So the model hub, or a file that only the driver has, is read once.
"""

from __future__ import annotations

import ray
import safetensors.torch
from ray import ObjectRef
from torch import Tensor

from fer.classifier.model import FaceModel
from fer.classifier.options import TrainConfig


def share_pretrained(config: TrainConfig, model: FaceModel) -> ObjectRef | None:
    """The weights of the model's backbone, in Ray's object store; None if they are random."""
    if not (config.starts_pretrained or config.prune):
        return None
    return ray.put(safetensors.torch.save(model.backbone.state_dict()))


def fetch_pretrained(shared: ObjectRef) -> dict[str, Tensor]:
    """The weights of `share_pretrained`, on the CPU."""
    return safetensors.torch.load(ray.get(shared))
