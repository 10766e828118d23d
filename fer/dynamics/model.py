"""The dynamics model: a flow net, a landmark net, and their fusion. It is saved as a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from fer.dynamics.blendshapes import BLENDSHAPES, BlendshapeNet
from fer.dynamics.flow import SIDE
from fer.dynamics.options import Branch, Component, DynamicsModelOptions
from fer.dynamics.scores import SCORES
from fer.models.backbone import build_backbone
from fer.models.folder import load_folder, save_folder
from fer.models.options import BackboneOptions


class DynamicsSpec(BaseModel):
    """Everything needed to build a model; `model.json` in its folder."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    kind: Literal["dynamics"] = "dynamics"
    options: DynamicsModelOptions
    branch: Branch = "fusion"
    """The output that is used as scores: that of the last stage trained."""
    training: dict[str, Any] = {}
    """Provenance: run, data, last stage, metrics. Shown on the model card, not used otherwise."""


class FlowNet(nn.Module):
    """A timm network: flow images (N, 3, 112, 112) in [0, 1] to (N, 2)."""

    mean: Tensor
    std: Tensor

    def __init__(self, options: DynamicsModelOptions, pretrained: bool) -> None:
        super().__init__()
        timm_options = BackboneOptions(backbone=options.backbone, model_kwargs=options.model_kwargs, img_size=SIDE)
        self.backbone = build_backbone(timm_options, pretrained)
        width = getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features
        self.head = nn.Linear(width, len(SCORES))
        for name, values in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            self.register_buffer(name, torch.tensor(values).reshape(3, 1, 1), persistent=False)

    def forward(self, flow_images: Tensor) -> Tensor:
        return self.head(self.backbone((flow_images - self.mean) / self.std))


class LandmarkNet(nn.Module):
    """Landmarks of the frame and of the baseline, each (N, 146, 2) in pixels, to (N, 2).

    The blendshape network is applied to both; the difference and the baseline's blendshapes, 104 features, are the
    input of an MLP.
    """

    def __init__(self, options: DynamicsModelOptions) -> None:
        super().__init__()
        self.blendshapes = BlendshapeNet()
        features = 2 * BLENDSHAPES
        # The scales of blendshapes, and even more of their changes, differ widely: normalise them.
        self.mlp = nn.Sequential(
            nn.BatchNorm1d(features, momentum=0.3),
            nn.Linear(features, options.hidden),
            nn.ReLU(),
            nn.Linear(options.hidden, len(SCORES)),
        )

    def forward(self, expression: Tensor, baseline: Tensor) -> Tensor:
        current, reference = self.blendshapes(torch.cat([expression, baseline])).chunk(2)
        return self.mlp(torch.cat([current - reference, reference], dim=1))


class DynamicsModel(nn.Module):
    """The whole network. Scores are (N, 2) in levels: dynamics 0 to 5 and synkinesis 0 to 3, not clipped."""

    max_level: Tensor

    def __init__(self, options: DynamicsModelOptions, pretrained: bool = False) -> None:
        super().__init__()
        self.flow = FlowNet(options, pretrained)
        self.landmarks = LandmarkNet(options)
        self.fusion = nn.Linear(4, 2)
        with torch.no_grad():  # initially the mean of the two branches
            self.fusion.weight.copy_(torch.eye(2).repeat(1, 2) / 2)
            self.fusion.bias.zero_()
        self.register_buffer("max_level", torch.tensor([float(top) for top in SCORES.values()]), persistent=False)

    def forward(self, flow_images: Tensor, expression: Tensor, baseline: Tensor, branch: Branch = "fusion") -> Tensor:
        """Scores (N, 2) of the flow net, the landmark net, or their fusion."""
        if branch == "flow":
            values = self.flow(flow_images)
        elif branch == "landmarks":
            values = self.landmarks(expression, baseline)
        else:
            values = self.fusion(torch.cat([self.flow(flow_images), self.landmarks(expression, baseline)], dim=1))
        # The networks output fractions of each range, relative to its middle: close to their initial output, 0.
        return (values + 0.5) * self.max_level

    def component(self, name: Component) -> nn.Module:
        """A sub-network that a stage can train."""
        return {
            "flow": self.flow,
            "blendshapes": self.landmarks.blendshapes,
            "mlp": self.landmarks.mlp,
            "fusion": self.fusion,
        }[name]


def save_model(weights: Mapping[str, Tensor], spec: DynamicsSpec, folder: Path) -> None:
    """Write a state dict as a model folder (see `fer.models.folder`)."""
    save_folder(weights, spec, folder)


def load_model(folder: Path, device: str | torch.device = "cpu") -> tuple[DynamicsModel, DynamicsSpec]:
    """Load a model in evaluation mode on ``device``. Raises UserError if the folder is not a dynamics model."""
    weights, spec = load_folder(folder, DynamicsSpec, device)
    model = DynamicsModel(spec.options).to(device)
    model.load_state_dict(weights)
    return model.eval(), spec
