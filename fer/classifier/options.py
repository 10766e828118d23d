"""Options of the image classifier: plain values, no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from fer.data.options import DataOptions
from fer.models.options import WEIGHTS_FILE, BackboneOptions
from fer.options import Options
from fer.plugins import Registry
from fer.training.options import CheckpointOptions, OptimizerOptions

LOSSES = Registry(
    "--loss",
    "fer.losses",
    {
        "ce": "fer.classifier.losses:cross_entropy",
        "focal": "fer.classifier.losses:smoothed_focal_loss",
        "bootstrap-soft": "fer.classifier.losses:soft_bootstrap_loss",
        "bootstrap-hard": "fer.classifier.losses:hard_bootstrap_loss",
    },
)


class ModelOptions(BackboneOptions):
    """Architecture and heads of the network."""

    pretrained: bool = Field(False, description="Start from timm's pretrained weights")
    head: Literal["classification", "valence-arousal", "both"] = Field(
        "classification",
        description="Predict an expression, valence and arousal in [-1, 1], or both from one backbone",
    )
    margin: Literal["none", "arcface", "cosface"] = Field(
        "none", description="Margin loss of the classification head (ArcFace, CosFace)"
    )
    margin_size: float = Field(0.2, ge=0, le=1, description="Margin, in radians for arcface, as a cosine for cosface")
    margin_scale: float = Field(30.0, gt=0, description="Scale of the cosine logits of a margin head")

    @property
    def starts_pretrained(self) -> bool:
        """Whether the backbone starts from weights of the model hub, or of a file."""
        return self.pretrained or WEIGHTS_FILE in self.model_kwargs


class AugmentOptions(Options):
    """Augmentation of training images; fractions are relative to the image side or the value range."""

    hflip: float = Field(0.5, ge=0, le=1, description="Probability of a horizontal flip")
    rotate: float = Field(10.0, ge=0, le=180, description="Maximum rotation in either direction, in degrees")
    zoom: float = Field(0.1, ge=0, lt=1, description="Maximum change of scale, as a fraction")
    shift: float = Field(0.05, ge=0, lt=1, description="Maximum shift along each axis, as a fraction of the side")
    brightness: float = Field(0.2, ge=0, le=1, description="Maximum change of brightness, as a fraction")
    contrast: float = Field(0.2, ge=0, le=1, description="Maximum change of contrast, as a fraction")
    auto_augment: bool = Field(False, description="AutoAugment with the ImageNet policy (timm)")
    random_erasing: float = Field(0.0, ge=0, le=1, description="Probability of erasing a rectangle (timm)")
    mixup: float = Field(0.0, ge=0, description="Mixup alpha; 0: off")
    cutmix: float = Field(
        0.0, ge=0, description="CutMix alpha; 0: off. With mixup, one of the two is chosen for each batch"
    )
    non_faces: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Fraction of each batch that is replaced by images without a face, to be unsure about",
    )


class LossOptions(Options):
    """The training loss."""

    loss: Annotated[str, AfterValidator(LOSSES.check)] = Field(
        "ce",
        description="Cross-entropy (ce), focal loss (focal), cross-entropy with labels that are partly the model's own "
        "(bootstrap-soft, bootstrap-hard), a loss of an installed package, or your own as module:function",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Fraction of each label spread over all classes")
    focal_gamma: float = Field(2.0, ge=0, description="Focusing exponent of the focal loss")
    bootstrap_beta: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Weight of the given label in a bootstrap loss; the rest is the model's own. Unset: 0.95 for "
        "bootstrap-soft, 0.8 for bootstrap-hard",
    )
    class_weights: bool = Field(False, description="Weight classes by the inverse of their training counts")
    soft_labels: bool = Field(False, description="Train on the annotators' votes where the data has them (FER+)")


class MethodOptions(Options):
    """Training methods beyond the loss; each is off by default."""

    r_drop: float = Field(
        0.0, ge=0, description="R-Drop: weight of the divergence between two passes with different dropout; 0: off"
    )
    sam: float = Field(
        0.0, ge=0, description="Sharpness-aware minimisation: radius of the neighbourhood of the weights; 0: off"
    )
    teacher: list[str] = Field(
        [],
        description="Distil this model: a folder, a run, runs:/ID/model or models:/NAME@ALIAS; of several, their mean",
    )
    teacher_temperature: float = Field(4.0, gt=0, description="Temperature that softens teacher and model alike")
    teacher_weight: float = Field(
        0.5, ge=0, le=1, description="Weight of the teacher's probabilities; the rest is the labels'"
    )
    prune: str | None = Field(
        None,
        description="Start from this model's strongest channels, as many as the network has: for its --backbone with "
        """fewer, such as --model-kwargs '{"channels": [64, 64, 128, 256]}'; a folder, a run, or as for --teacher""",
    )
    unlabelled: str | None = Field(
        None,
        description="Learn from these faces too, whose labels are not read (FixMatch): a folder or .zip of images, or "
        "shards; needs --ema, which labels them",
    )
    unlabelled_ratio: int = Field(2, ge=1, le=16, description="Unlabelled images for each labelled one of a batch")
    pseudo_threshold: float = Field(
        0.95, ge=0, le=1, description="Probability from which on an unlabelled image's own label is believed"
    )


class TrainConfig(
    DataOptions, ModelOptions, AugmentOptions, LossOptions, MethodOptions, OptimizerOptions, CheckpointOptions
):
    """Train an expression classifier on Ray Train: any timm backbone, on CPUs or GPUs, on one machine or many."""

    mutable_options: ClassVar[frozenset[str]] = frozenset({"workers"})

    keep: Literal["best", "last"] = Field(
        "best", description="Epoch whose weights become the model: the one that validates best, or the last"
    )
    compile: bool = Field(
        False, description="Compile the network with torch.compile: a minute or more at the start, then faster on GPUs"
    )
    decode: Literal["worker", "processes", "remote"] = Field(
        "worker",
        description="Decode and augment images on threads of the training worker, in processes beside it (for many "
        "cores and for --auto-augment), or on other CPUs of the cluster",
    )
    decode_threads: int = Field(
        2,
        ge=1,
        le=64,
        description="Threads per worker that decode and augment images; processes with --decode processes",
    )

    @model_validator(mode="after")
    def _check_compatible(self) -> TrainConfig:
        if self.margin != "none" and (self.mixup or self.cutmix or self.soft_labels or self.non_faces):
            raise ValueError(
                "--margin needs one label per image: leave out --mixup, --cutmix, --soft-labels and --non-faces"
            )
        if self.margin != "none" and self.head == "valence-arousal":
            raise ValueError("--margin needs a classification head: use --head classification or both")
        if self.head == "valence-arousal" and (self.teacher or self.r_drop):
            raise ValueError("--teacher and --r-drop compare probabilities: use --head classification or both")
        if self.margin != "none" and self.teacher:
            raise ValueError("--teacher compares plain logits, which a --margin changes: leave one out")
        if self.prune and self.starts_pretrained:
            raise ValueError("--prune starts from a model's weights: leave out --pretrained and other weights")
        if self.unlabelled and not self.ema:
            raise ValueError("--unlabelled needs --ema, the moving average that labels the images: add --ema 0.999")
        if self.unlabelled and (self.margin != "none" or self.head != "classification" or self.r_drop):
            raise ValueError("--unlabelled needs --head classification: leave out --margin and --r-drop")
        if self.keep == "last" and self.patience:
            raise ValueError("--keep last trains all epochs: use --keep best, or leave out --patience")
        if self.head != "classification" and (self.mixup or self.cutmix or self.non_faces):
            raise ValueError(
                "--mixup, --cutmix and --non-faces need --head classification: they change its labels only"
            )
        return self
