"""The scorer: a flow net, a landmark net, and their fusion. A model is a folder, as everywhere in Ferry."""

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
from fer.dynamics.options import Branch, Part, ScorerOptions
from fer.dynamics.scores import SCORES
from fer.models.backbone import build_backbone
from fer.models.folder import load_folder, save_folder
from fer.models.options import BackboneOptions


class ScorerSpec(BaseModel):
    """Everything needed to build a scorer; `model.json` in its folder."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    kind: Literal["dynamics"] = "dynamics"
    options: ScorerOptions
    branch: Branch = "fusion"
    """Whose output the scores are: that of the last stage it went through."""
    training: dict[str, Any] = {}
    """Where the model comes from: run, data, stages, figures. Shown on its card, used by nothing."""


class FlowNet(nn.Module):
    """Flow pictures (N, 3, 112, 112), values in [0, 1], to 2 values: a timm network."""

    mean: Tensor
    std: Tensor

    def __init__(self, options: ScorerOptions, pretrained: bool) -> None:
        super().__init__()
        timm_options = BackboneOptions(backbone=options.backbone, model_kwargs=options.model_kwargs, img_size=SIDE)
        self.backbone = build_backbone(timm_options, pretrained)
        width = getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features
        self.head = nn.Linear(width, len(SCORES))
        for name, values in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            self.register_buffer(name, torch.tensor(values).reshape(3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.backbone((pictures - self.mean) / self.std))


class LandmarkNet(nn.Module):
    """Landmarks of the frame and of the baseline, each (N, 146, 2) in pixels, to 2 values.

    Two passes of the blendshape network give 104 features, what has changed and what was there; an MLP makes 2 of them.
    """

    def __init__(self, options: ScorerOptions) -> None:
        super().__init__()
        self.blendshapes = BlendshapeNet()
        features = 2 * BLENDSHAPES
        # Blendshapes, and still more their changes, vary by very different amounts: the first layer evens them out.
        self.mlp = nn.Sequential(
            nn.BatchNorm1d(features, momentum=0.3),
            nn.Linear(features, options.hidden),
            nn.ReLU(),
            nn.Linear(options.hidden, len(SCORES)),
        )

    def forward(self, expression: Tensor, baseline: Tensor) -> Tensor:
        moved, rest = self.blendshapes(torch.cat([expression, baseline])).chunk(2)
        return self.mlp(torch.cat([moved - rest, rest], dim=1))


class DynamicsModel(nn.Module):
    """The whole scorer. Scores are (N, 2) in levels: dynamics about 0 to 5, synkinesis about 0 to 3, not cut off."""

    top: Tensor

    def __init__(self, options: ScorerOptions, pretrained: bool = False) -> None:
        super().__init__()
        self.flow = FlowNet(options, pretrained)
        self.landmarks = LandmarkNet(options)
        self.fusion = nn.Linear(4, 2)
        with torch.no_grad():  # before it has learnt anything, the fusion is the mean of the two paths
            self.fusion.weight.copy_(torch.eye(2).repeat(1, 2) / 2)
            self.fusion.bias.zero_()
        self.register_buffer("top", torch.tensor([float(top) for top in SCORES.values()]), persistent=False)

    def forward(self, pictures: Tensor, expression: Tensor, baseline: Tensor, branch: Branch = "fusion") -> Tensor:
        """Scores by the flow net alone, the landmark net alone, or the fusion of both."""
        if branch == "flow":
            values = self.flow(pictures)
        elif branch == "landmarks":
            values = self.landmarks(expression, baseline)
        else:
            values = self.fusion(torch.cat([self.flow(pictures), self.landmarks(expression, baseline)], dim=1))
        # The networks compute in shares of each scale, from its middle: there their random start is at home.
        return (values + 0.5) * self.top

    def part(self, name: Part) -> nn.Module:
        """One of the parts that a stage may train."""
        return {
            "flow": self.flow,
            "blendshapes": self.landmarks.blendshapes,
            "mlp": self.landmarks.mlp,
            "fusion": self.fusion,
        }[name]


def save_model(weights: Mapping[str, Tensor], spec: ScorerSpec, folder: Path) -> None:
    """Write a model folder (see `fer.models.folder`) from a state dict."""
    save_folder(weights, spec, folder)


def load_model(folder: Path, device: str | torch.device = "cpu") -> tuple[DynamicsModel, ScorerSpec]:
    """A dynamics model from its folder, in evaluation mode on ``device``. Raises UserError if the folder holds none."""
    weights, spec = load_folder(folder, ScorerSpec, device)
    model = DynamicsModel(spec.options).to(device)
    model.load_state_dict(weights)
    return model.eval(), spec
