"""The network: a timm backbone with an expression head, a valence-arousal head, or both."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fer.classifier.heads import MarginHead
from fer.classifier.options import ModelOptions
from fer.classifier.spec import ModelSpec
from fer.data.record import DataRecord
from fer.faces.options import Preprocessing
from fer.labels import LabelSpace
from fer.models.backbone import build_backbone, pretrained_config
from fer.models.folder import load_folder, save_folder


class Outputs(NamedTuple):
    """Outputs for a batch; None for a head that the model does not have."""

    logits: Tensor | None
    """(N, classes), float32."""
    valence_arousal: Tensor | None
    """(N, 2), float32, each in [-1, 1]."""


class FaceModel(nn.Module):
    """Normalised images (N, C, H, W) to Outputs."""

    def __init__(self, options: ModelOptions, classes: int, pretrained: bool = False) -> None:
        super().__init__()
        self.backbone: Any = build_backbone(options, pretrained)
        width = getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features
        self.expression: nn.Module | None = None
        self.affect: nn.Module | None = None
        if options.head != "valence-arousal":
            self.expression = (
                nn.Linear(width, classes)
                if options.margin == "none"
                else MarginHead(width, classes, options.margin, options.margin_size, options.margin_scale)
            )
        if options.head != "classification":
            self.affect = nn.Linear(width, 2)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Outputs:
        """``labels``, class indices (N,), are needed in training with a margin head only."""
        features = self.backbone(images)
        logits = affect = None
        if isinstance(self.expression, MarginHead):
            logits = self.expression(features, labels).float()
        elif self.expression is not None:
            logits = self.expression(features).float()
        if self.affect is not None:
            affect = torch.tanh(self.affect(features).float())
        return Outputs(logits, affect)


def new_spec(
    options: ModelOptions,
    space: LabelSpace,
    data: DataRecord | None = None,
    preprocessing: Preprocessing | None = None,
) -> ModelSpec:
    """The spec of a new model, to be trained on ``data``, whose faces were cut out by ``preprocessing``.

    Mean and std are those of the backbone, averaged over the channels for grey input.
    """
    default = pretrained_config(options.backbone)
    mean, std = (list(default.mean), list(default.std)) if default else ([0.5] * 3, [0.5] * 3)
    if options.in_chans == 1:
        mean, std = [sum(mean) / 3], [sum(std) / 3]
    return ModelSpec(
        options=options,
        label_space=space.name,
        labels=list(space.labels),
        mean=mean,
        std=std,
        preprocessing=preprocessing,
        data=data,
    )


def build_model(spec: ModelSpec, pretrained: bool = False) -> FaceModel:
    """A new network with random weights, or with timm's pretrained backbone."""
    return FaceModel(spec.options, len(spec.labels), pretrained)


def save_model(model: FaceModel, spec: ModelSpec, folder: Path) -> None:
    """Write a model folder (see `fer.models.folder`)."""
    save_folder(model.state_dict(), spec, folder)


def load_model(folder: Path, device: str | torch.device = "cpu") -> tuple[FaceModel, ModelSpec]:
    """Load a classifier from its folder, in evaluation mode. Raises UserError if the folder is not a classifier's."""
    weights, spec = load_folder(folder, ModelSpec, device)
    model = build_model(spec).to(device)
    model.load_state_dict(weights)
    return model.eval(), spec
