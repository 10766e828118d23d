"""Options of the image classifier: plain values, no torch. Each group builds its part of a training run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from fer.data.options import DataOptions
from fer.models.options import BackboneOptions
from fer.options import Options
from fer.plugins import Registry
from fer.training.options import CheckpointOptions, OptimizerOptions

LOSSES = Registry(
    "--loss",
    "fer.losses",
    {
        "ce": "fer.classifier.losses:cross_entropy",
        "focal": "fer.classifier.losses:smoothed_focal_loss",
    },
)


class ModelOptions(BackboneOptions):
    """What the network is."""

    pretrained: bool = Field(False, description="Start from timm's pretrained weights")
    head: Literal["classification", "valence-arousal", "both"] = Field(
        "classification",
        description="What is predicted: an expression, valence and arousal in [-1, 1], or both from one backbone",
    )
    margin: Literal["none", "arcface", "cosface"] = Field(
        "none", description="Margin of the classification head (ArcFace, CosFace)"
    )
    margin_size: float = Field(0.2, ge=0, le=1, description="Margin: radians for arcface, cosine for cosface")
    margin_scale: float = Field(30.0, gt=0, description="Scale of the cosine logits of a margin head")


class AugmentOptions(Options):
    """How training images are varied. Angles in degrees; shares relative to the image's side or value range."""

    hflip: float = Field(0.5, ge=0, le=1, description="Probability of a horizontal flip")
    rotate: float = Field(10.0, ge=0, le=180, description="Largest rotation either way, in degrees")
    zoom: float = Field(0.1, ge=0, lt=1, description="Largest change of scale, as a share")
    shift: float = Field(0.05, ge=0, lt=1, description="Largest shift each way, as a share of the side")
    brightness: float = Field(0.2, ge=0, le=1, description="Largest change of brightness, as a share")
    contrast: float = Field(0.2, ge=0, le=1, description="Largest change of contrast, as a share")
    auto_augment: bool = Field(False, description="AutoAugment, the ImageNet policy (timm)")
    random_erasing: float = Field(0.0, ge=0, le=1, description="Probability of erasing a rectangle (timm)")
    mixup: float = Field(0.0, ge=0, description="Mixup alpha; 0: off")
    cutmix: float = Field(
        0.0, ge=0, description="CutMix alpha; 0: off. With mixup, one of the two is drawn for each batch"
    )


class LossOptions(Options):
    """What training minimises."""

    loss: Annotated[str, AfterValidator(LOSSES.check)] = Field(
        "ce",
        description="Cross-entropy (ce), focal loss (focal), that of an installed package, or module:function of your "
        "own",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each label spread over all classes")
    focal_gamma: float = Field(2.0, ge=0, description="Focusing exponent of the focal loss")
    class_weights: bool = Field(False, description="Weigh classes by the inverse of their training counts")
    soft_labels: bool = Field(False, description="Train on the annotators' votes where the data has them (FER+)")


class TrainConfig(DataOptions, ModelOptions, AugmentOptions, LossOptions, OptimizerOptions, CheckpointOptions):
    """Train an expression classifier on Ray Train: any timm backbone, on CPUs or GPUs, on one machine or many."""

    decode_threads: int = Field(2, ge=1, le=64, description="Threads per worker that decode and augment images")
    decode: Literal["worker", "remote"] = Field(
        "worker", description="Where images are decoded: in the training worker, or on other CPUs of the cluster"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.margin != "none" and (self.mixup or self.cutmix or self.soft_labels):
            raise ValueError("a margin head needs one label per image: leave out --mixup, --cutmix and --soft-labels")
        if self.margin != "none" and self.head == "valence-arousal":
            raise ValueError("--margin needs a classification head: use --head classification or both")
        if self.head != "classification" and (self.mixup or self.cutmix):
            raise ValueError("--mixup and --cutmix mix expression labels only: leave them out with --head " + self.head)
        return self
