"""Options of `fer dynamics`: data, model, and the five training stages. Plain values, no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fer.data.options import SplitOptions
from fer.options import Options
from fer.training.options import LaunchOptions

StageName = Literal["1", "2a", "2b", "3", "4"]
STAGES: tuple[StageName, ...] = ("1", "2a", "2b", "3", "4")
Component = Literal["flow", "blendshapes", "mlp", "fusion"]
"""A sub-network that a stage can train; `mlp` is the landmark net's head."""
Branch = Literal["flow", "landmarks", "fusion"]
"""The output that is used as scores."""


class DynamicsModelOptions(Options):
    """The network: a flow net, a landmark net, and their fusion."""

    backbone: str = Field("resnet18", description="Backbone of the flow net: any timm model")
    model_kwargs: dict[str, bool | int | float | str | list[int]] = Field(
        {}, description="Further arguments of the timm model, as JSON"
    )
    hidden: int = Field(64, ge=1, description="Width of the landmark net's hidden layer")


class InitOptions(Options):
    """Initial weights."""

    pretrained: bool = Field(True, description="Initialise the flow net with timm's pretrained weights")
    blendshapes: str | None = Field(
        None,
        description="Weights of the blendshape network, from `fer dynamics import-blendshapes`; unset: random",
    )


class FrameAugmentOptions(Options):
    """Augmentation of training frames; the flow image and the landmarks are transformed together."""

    hflip: float = Field(0.5, ge=0, le=1, description="Probability of a horizontal flip")
    rotate: float = Field(8.0, ge=0, le=180, description="Largest rotation in either direction, in degrees")
    zoom: float = Field(0.08, ge=0, lt=1, description="Largest change of scale, as a fraction")
    shift: float = Field(0.05, ge=0, lt=1, description="Largest shift in each direction, as a fraction of the side")
    colour_noise: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Standard deviation of the noise on the flow image, as a fraction of full brightness",
    )
    landmark_noise: float = Field(
        0.002,
        ge=0,
        lt=1,
        description="Standard deviation of the noise on the landmarks, as a fraction of the face's width",
    )


Components = Annotated[list[Component], Field(min_length=1, description="Components to train; the others are frozen")]
Rate = Annotated[float, Field(gt=0, description="Peak learning rate")]
Epochs = Annotated[int, Field(ge=1, description="Maximum number of epochs")]
Scheduler = Annotated[Literal["cosine", "onecycle"], Field(description="Learning rate schedule")]
Patience = Annotated[
    int, Field(ge=0, description="Stop early after this many epochs without a lower validation loss; 0: never")
]


class Stage(Options):
    """One training stage. The next starts from its best weights."""

    train: Components
    lr: Rate
    epochs: Epochs = 30
    scheduler: Scheduler = "cosine"
    patience: Patience = 10

    @property
    def branch(self) -> Branch:
        """The output that is trained and validated."""
        if "fusion" in self.train:
            return "fusion"
        return "flow" if "flow" in self.train else "landmarks"

    @model_validator(mode="after")
    def _one_branch(self) -> Stage:
        if self.branch == "flow" and len(set(self.train)) > 1:
            raise ValueError("the flow and landmark nets can be trained together only with the fusion: add fusion")
        return self


class Stage1(Stage):
    """Stage 1: the flow net alone."""

    train: Components = Field(["flow"])
    lr: Rate = 1e-3


class Stage2a(Stage):
    """Stage 2a: the landmark net without its blendshape network."""

    train: Components = Field(["mlp"])
    lr: Rate = 0.01


class Stage2b(Stage):
    """Stage 2b: the whole landmark net."""

    train: Components = Field(["blendshapes", "mlp"])
    lr: Rate = 1e-3


class Stage3(Stage):
    """Stage 3: the fusion layer."""

    train: Components = Field(["fusion"])
    lr: Rate = 0.01
    epochs: Epochs = 15


class Stage4(Stage):
    """Stage 4: the whole network, at a low learning rate."""

    train: Components = Field(["flow", "blendshapes", "mlp", "fusion"])
    lr: Rate = 1e-4
    epochs: Epochs = 20


class StageOptions(Options):
    """The five stages, and what they share."""

    stage_1: Stage1 = Stage1()
    stage_2a: Stage2a = Stage2a()
    stage_2b: Stage2b = Stage2b()
    stage_3: Stage3 = Stage3()
    stage_4: Stage4 = Stage4()
    batch_size: int = Field(32, ge=2, description="Frames per worker and batch")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay (AdamW); biases and normalisation are exempt")
    loss: Literal["mse", "ordinal"] = Field(
        "mse", description="Mean squared error, or the all-threshold ordinal loss (Rennie and Srebro, 2005)"
    )

    def stage(self, name: StageName) -> Stage:
        return getattr(self, f"stage_{name}")


class DynamicsConfig(SplitOptions, StageOptions, InitOptions, DynamicsModelOptions, FrameAugmentOptions, LaunchOptions):
    """Train a model of facial dynamics (0-5) and synkinesis (0-3) in five stages. Research scores, not a diagnosis."""

    data: str = Field(
        description="Frames: a folder, zip or URI with EXPRESSION/VIDEO_FRAME folders, or the folder of one expression"
    )
    val_split: float = Field(0.2, gt=0, lt=1, description="Fraction of the videos for validation")
    test_split: float = Field(0.0, ge=0, lt=1, description="Fraction of the videos for testing")
    stages: list[StageName] = Field(
        list(STAGES),
        min_length=1,
        description="Stages to train; stages that the run has finished are not trained again",
    )
    folds: int = Field(0, ge=0, description="Number of cross-validation folds, split by video; 0: no cross-validation")

    @model_validator(mode="after")
    def _fits_together(self) -> DynamicsConfig:
        if self.folds == 1:
            raise ValueError("--folds 1 leaves no training data: use 2 or more, or 0 for a single split")
        if self.folds and (self.test_split or self.register_as):
            raise ValueError(
                "--folds evaluates on every video and exports no model: leave out --test-split and --register-as"
            )
        return self
