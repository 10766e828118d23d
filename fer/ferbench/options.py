"""Options of `fer ferbench`, one class a verb: plain values, no torch."""

from __future__ import annotations

import warnings
from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg, CliVariadicArg

from fer.options import Options
from fer.tracking import TrackingOptions


class JudgedModel(Options):
    """A model that answers questions: where it is, and what its time or its tokens cost."""

    model: CliPositionalArg[str | None] = Field(
        None,
        description="Model: a vision-language model (a folder, a run, models:/NAME@ALIAS, a hub name, "
        "tiny:qwen2.5-vl), its name at --endpoint, or a classifier of ours (a folder, a run, models:/NAME@ALIAS)",
    )
    name: str | None = Field(
        None, pattern=r"^[\w.-]+$", description="What the model is called in results; unset: made from MODEL"
    )
    endpoint: str | None = Field(
        None, description="OpenAI-compatible endpoint, such as http://host:8000/v1; its key in OPENAI_API_KEY"
    )
    concurrency: int = Field(16, ge=1, le=512, description="Requests to the endpoint that are under way at a time")
    requests_per_minute: float = Field(0, ge=0, description="Begin at most so many requests a minute; 0: no limit")
    trust_remote_code: bool = Field(False, description="Run the Python code that comes with a hub model")
    price_per_hour: float = Field(0, ge=0, description="Price of an hour of one engine (a GPU), to reckon the cost")
    price_in: float = Field(0, ge=0, description="Price of a million prompt tokens")
    price_out: float = Field(0, ge=0, description="Price of a million answer tokens")


class AskingOptions(Options):
    """How every model is asked: what must be the same for all of them."""

    image_size: int = Field(224, ge=0, le=2048, description="Side that images are resized to; 0: as they are")
    max_new_tokens: int = Field(1024, ge=1, description="Longest answer, in tokens; answers are greedy")
    guided: bool = Field(
        False, description="Allow nothing but the candidate labels as an answer: not comparable with published figures"
    )


class RunConfig(JudgedModel, AskingOptions, TrackingOptions):
    """Let models answer questions about faces; a stopped run is continued by the same command."""

    models: str | None = Field(
        None, description="YAML file with a list `models`, each entry with the options of one MODEL; instead of MODEL"
    )
    questions: CliVariadicArg[list[str]] = Field(
        min_length=1, description="Files of questions in FERBench's form (.json, .jsonl), or of conversations"
    )
    image_root: str = Field(description="Folder or .zip that the questions' image paths are relative to")
    out: str = Field(description="Folder for the answers: OUT/NAME/QUESTIONS.json; all nodes must reach it")
    workers: int = Field(0, ge=0, description="Engines, each with its own copy of the model; 0: one per GPU, else one")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="What to compute on; auto: GPUs if there are any")
    max_bad_fraction: float = Field(
        0.01, ge=0, le=1, description="Refuse to start if more than this share of the images is missing"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if (self.model is None) == (self.models is None):
            raise ValueError("name one MODEL, or a file of them with --models")
        return self


class TrapOptions(Options):
    """What is known of FERPlus that its published question file does not say."""

    ferplus_votes: str | None = Field(
        None,
        description="FER+'s fer2013new.csv: also give FERPlus figures without the images that have no clear majority",
    )
    seed: int = Field(0, ge=0, description="Seed of the bootstrap")


warnings.filterwarnings("ignore", 'Field name "json"')  # of an old method of pydantic's models that nobody calls


class ScoreConfig(TrapOptions):
    """Score answers in UniFER's protocol and in the strict one, side by side."""

    results: CliPositionalArg[list[str]] = Field(
        min_length=1,
        description="Results: folders of `fer ferbench run` (of one model or of many), or files in UniFER's form, "
        "which are taken to be of one model",
    )
    protocol: Literal["unifer", "strict", "both"] = Field("both", description="Which figures to show")
    json: str | None = Field(None, description="Also write all figures to this file")  # type: ignore[assignment]


class ReportConfig(TrapOptions):
    """One HTML page and a Markdown table over models and data sets."""

    results: CliPositionalArg[list[str]] = Field(
        min_length=1, description="Folders of `fer ferbench run`, or files in UniFER's form, as in `fer ferbench score`"
    )
    out: str = Field("ferbench-report", description="Folder for the report")
    image_root: str | None = Field(
        None, description="Where the images are, to show a sample of them; unset: where the run had them"
    )
    samples: int = Field(12, ge=0, le=200, description="Agreements shown of each model, and as many mistakes")
    thumbnails: bool = Field(True, description="Show faces in the sample; leave them out before you share the report")
