"""Options of `fer ferbench`, one class per subcommand. No torch."""

from __future__ import annotations

import warnings
from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg, CliVariadicArg

from fer.options import Options
from fer.tracking import TrackingOptions


class BenchmarkModel(Options):
    """A model to evaluate: where it is, how to reach it, and its prices."""

    model: CliPositionalArg[str | None] = Field(
        None,
        description="Model: a vision-language model (a folder, a run, models:/NAME@ALIAS, a hub name, "
        "tiny:qwen2.5-vl), its name at --endpoint, or a Ferry classifier (a folder, a run, models:/NAME@ALIAS)",
    )
    name: str | None = Field(
        None, pattern=r"^[\w.-]+$", description="Name of the model in the results; unset: derived from MODEL"
    )
    endpoint: str | None = Field(
        None, description="OpenAI-compatible endpoint, such as http://host:8000/v1; API key in OPENAI_API_KEY"
    )
    concurrency: int = Field(16, ge=1, le=512, description="Concurrent requests to the endpoint")
    requests_per_minute: float = Field(0, ge=0, description="Rate limit of requests to the endpoint; 0: no limit")
    trust_remote_code: bool = Field(False, description="Run the Python code that comes with a hub model")
    price_per_hour: float = Field(0, ge=0, description="Price of one engine (a GPU) per hour, for the cost")
    price_in: float = Field(0, ge=0, description="Price of a million prompt tokens")
    price_out: float = Field(0, ge=0, description="Price of a million completion tokens")


class GenerationOptions(Options):
    """How responses are generated, the same for all models."""

    image_size: int = Field(224, ge=0, le=2048, description="Side that images are resized to; 0 keeps their size")
    max_new_tokens: int = Field(1024, ge=1, description="Maximum length of a response in tokens; decoding is greedy")
    protocol: Literal["ferry", "unifer"] = Field(
        "ferry",
        description="ferry: in the model's own data type (fp32 on CPUs without fast bf16), without the repetition "
        "penalty of its generation config; unifer: in fp32 with that penalty, as in UniFER's script",
    )
    guided: bool = Field(
        False,
        description="Constrain responses to the candidate labels; not comparable with published metrics",
    )


class FerbenchRunConfig(BenchmarkModel, GenerationOptions, TrackingOptions):
    """Collect models' responses to questions about faces; the same command resumes an interrupted run."""

    models: str | None = Field(
        None, description="YAML file with a list `models`, each entry with the options of one MODEL; instead of MODEL"
    )
    questions: CliVariadicArg[list[str]] = Field(
        min_length=1, description="Files of questions in FERBench's form (.json, .jsonl), or of conversations"
    )
    image_root: str = Field(description="Folder or .zip that the questions' image paths are relative to")
    out: str = Field(description="Output folder that all nodes reach, or a URI (s3://, gs://): OUT/NAME/QUESTIONS.json")
    workers: int = Field(
        0, ge=0, description="Engines, each with its own copy of the model; 0: one per GPU, or one on CPUs"
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Device to run on; auto uses GPUs if the cluster has any"
    )
    max_bad_fraction: float = Field(
        0.01, ge=0, le=1, description="Refuse to start if a larger fraction of the images is missing"
    )
    allow_training_rows: bool = Field(
        False, description="Run a classifier on images that it was trained on as well; the report then says so first"
    )

    @model_validator(mode="after")
    def _one_source_of_models(self) -> FerbenchRunConfig:
        if (self.model is None) == (self.models is None):
            raise ValueError("name one MODEL, or a file of them with --models")
        return self


class EvaluationOptions(Options):
    """How results are evaluated."""

    ferplus_votes: str | None = Field(
        None,
        description="FER+'s fer2013new.csv: also evaluate FERPlus without the images that have no clear majority",
    )
    seed: int = Field(0, ge=0, description="Seed of the bootstrap")


warnings.filterwarnings("ignore", 'Field name "json"')  # shadows a deprecated method of pydantic's models


class FerbenchScoreConfig(EvaluationOptions):
    """Evaluate responses in UniFER's protocol and in the strict protocol, side by side."""

    results: CliPositionalArg[list[str]] = Field(
        min_length=1,
        description="Results: folders of `fer ferbench run` (of one or more models), or files in UniFER's form, "
        "which are taken as one model's",
    )
    protocol: Literal["unifer", "strict", "both"] = Field("both", description="Which protocol to show")
    json: str | None = Field(None, description="Also write all metrics to this file")  # type: ignore[assignment]


class FerbenchReportConfig(EvaluationOptions):
    """One HTML page and a Markdown table over models and data sets."""

    results: CliPositionalArg[list[str]] = Field(
        min_length=1, description="Folders of `fer ferbench run`, or files in UniFER's form, as in `fer ferbench score`"
    )
    out: str = Field("ferbench-report", description="Folder for the report")
    image_root: str | None = Field(
        None, description="Folder or .zip of the images to show a sample of; unset: that of the run"
    )
    samples: int = Field(12, ge=0, le=200, description="Correct responses shown per model, and as many wrong ones")
    thumbnails: bool = Field(True, description="Show faces in the sample; omit them from reports that you share")
