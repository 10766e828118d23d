"""Options of `fer dynamics`: the data, the model, and the five stages of its training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fer.data.options import SplitOptions
from fer.options import Options
from fer.training.options import LaunchOptions

StageName = Literal["1", "2a", "2b", "3", "4"]
STAGES: tuple[StageName, ...] = ("1", "2a", "2b", "3", "4")
Part = Literal["flow", "blendshapes", "mlp", "fusion"]
Branch = Literal["flow", "landmarks", "fusion"]


class ScorerOptions(Options):
    """What the network is: a flow net, a landmark net, and their fusion."""

    backbone: str = Field("resnet18", description="Flow net: any timm model name")
    model_kwargs: dict[str, bool | int | float | str | list[int]] = Field(
        {}, description="Further arguments of the timm model, as JSON"
    )
    hidden: int = Field(64, ge=1, description="Width of the landmark net's hidden layer, from 104 features to 2")


class StartOptions(Options):
    """Which weights training starts from."""

    pretrained: bool = Field(True, description="Start the flow net from timm's pretrained weights")
    blendshapes: str | None = Field(
        None,
        description="Blendshape network to start from, made by `fer dynamics import-blendshapes`; unset: random",
    )


class AugmentOptions(Options):
    """How training frames are varied; picture and landmarks move together. Shares are of the picture's side."""

    hflip: float = Field(0.5, ge=0, le=1, description="Probability of a mirror image")
    rotate: float = Field(8.0, ge=0, le=180, description="Largest rotation either way, in degrees")
    zoom: float = Field(0.08, ge=0, lt=1, description="Largest change of scale, as a share")
    shift: float = Field(0.05, ge=0, lt=1, description="Largest shift each way, as a share of the side")
    colour_noise: float = Field(
        0.02, ge=0, le=1, description="Standard deviation of the flow picture's noise, as a share of full brightness"
    )
    landmark_noise: float = Field(
        0.002, ge=0, lt=1, description="Standard deviation of the landmarks' noise, as a share of the face's width"
    )


Parts = Annotated[list[Part], Field(min_length=1, description="Parts that learn; the others are frozen")]
Rate = Annotated[float, Field(gt=0, description="Learning rate at its peak")]
Epochs = Annotated[int, Field(ge=1, description="Most passes over the training data")]
Scheduler = Annotated[Literal["cosine", "onecycle"], Field(description="Learning rate schedule")]
Patience = Annotated[
    int, Field(ge=0, description="Stop after so many epochs without a lower validation loss; 0: never")
]


class Stage(Options):
    """One stage of the training. Its best weights start the next."""

    train: Parts
    lr: Rate
    epochs: Epochs = 30
    scheduler: Scheduler = "cosine"
    patience: Patience = 10

    @property
    def branch(self) -> Branch:
        """Whose output is trained and judged."""
        if "fusion" in self.train:
            return "fusion"
        return "flow" if "flow" in self.train else "landmarks"

    @model_validator(mode="after")
    def _one_branch(self) -> Stage:
        if self.branch == "flow" and len(set(self.train)) > 1:
            raise ValueError("the flow net and the landmark net learn together only with the fusion: add fusion")
        return self


class Stage1(Stage):
    """Stage 1: the flow net alone."""

    train: Parts = Field(["flow"])
    lr: Rate = 1e-3


class Stage2a(Stage):
    """Stage 2a: the layers after the blendshape network, which is frozen."""

    train: Parts = Field(["mlp"])
    lr: Rate = 0.01


class Stage2b(Stage):
    """Stage 2b: the whole landmark net."""

    train: Parts = Field(["blendshapes", "mlp"])
    lr: Rate = 1e-3


class Stage3(Stage):
    """Stage 3: the fusion of the two paths, which are frozen."""

    train: Parts = Field(["fusion"])
    lr: Rate = 0.01
    epochs: Epochs = 15


class Stage4(Stage):
    """Stage 4: everything, at a small rate."""

    train: Parts = Field(["flow", "blendshapes", "mlp", "fusion"])
    lr: Rate = 1e-4
    epochs: Epochs = 20


class StageOptions(Options):
    """The five stages."""

    stage_1: Stage1 = Stage1()
    stage_2a: Stage2a = Stage2a()
    stage_2b: Stage2b = Stage2b()
    stage_3: Stage3 = Stage3()
    stage_4: Stage4 = Stage4()
    batch_size: int = Field(32, ge=2, description="Frames per worker and step")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay (AdamW); biases and normalisation are exempt")
    loss: Literal["mse", "ordinal"] = Field(
        "mse", description="Mean squared error, or the all-threshold ordinal loss (Rennie and Srebro, 2005)"
    )

    def stage(self, name: StageName) -> Stage:
        return getattr(self, f"stage_{name}")


class DynamicsConfig(SplitOptions, StageOptions, StartOptions, ScorerOptions, AugmentOptions, LaunchOptions):
    """Train a scorer of facial dynamics (0-5) and synkinesis (0-3) in five stages. Research scores, not a diagnosis."""

    data: str = Field(
        description="Frames: a folder, zip or URI with EXPRESSION/VIDEO_FRAME folders, or one expression's folder"
    )
    val_split: float = Field(0.2, gt=0, lt=1, description="Share of the videos used for validation")
    test_split: float = Field(0.0, ge=0, lt=1, description="Share of the videos used for testing")
    stages: list[StageName] = Field(
        list(STAGES), min_length=1, description="Stages to run, in their order; one that the run has finished is kept"
    )
    folds: int = Field(
        0, ge=0, description="Cross-validate: train so many times, each time with other videos for validation; 0: off"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> DynamicsConfig:
        if self.folds == 1:
            raise ValueError("--folds 1 leaves nothing to train on: use 2 or more, or 0 for a single split")
        if self.folds and (self.test_split or self.register_as):
            raise ValueError(
                "--folds judges every video once and keeps no model: leave out --test-split, --register-as"
            )
        return self
