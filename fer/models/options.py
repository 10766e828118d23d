"""Options of a timm backbone. No torch is imported here."""

from __future__ import annotations

from pydantic import Field, field_validator

from fer.options import Options
from fer.plugins import Registry

# Functions decorated with `timm.models.register_model`, by the name that they register.
BACKBONES = Registry("--backbone", "fer.backbones", {}, allow_references=False)


WEIGHTS_FILE = "checkpoint_path"
"""Argument of a timm model: a file of pretrained weights, which only a new model reads."""


class BackboneOptions(Options):
    """The timm network and its input."""

    backbone: str = Field("resnet18", description="Any timm model, or one that an installed package registers")
    model_kwargs: dict[str, bool | int | float | str | list[int]] = Field(
        {}, description="Additional arguments of the timm model, as JSON"
    )
    img_size: int = Field(224, ge=16, le=2048, description="Side of the square input in pixels")
    in_chans: int = Field(3, ge=1, le=3, description="Input channels: 3 for colour, 1 for grey")

    @field_validator("in_chans")
    @classmethod
    def _grey_or_colour(cls, value: int) -> int:
        if value == 2:
            raise ValueError("use 1 for grey or 3 for colour")
        return value
