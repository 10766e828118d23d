"""Options of `fer questions`. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fer.data.options import DataOptions


class QuestionsConfig(DataOptions):
    """Build questions from any data set of faces whose images are files, in the form of UniFER's published files."""

    out: str = Field(pattern=r"\.jsonl$", description="Output file, one question per line (.jsonl)")
    kind: Literal["ferbench", "grpo", "sft", "chain-of-affect"] = Field(
        "sft",
        description="ferbench: test questions; grpo: problems with a solution; sft: questions with a response; "
        "chain-of-affect: conversations of one or two turns with labels as responses",
    )
    split: Literal["train", "val", "test", "all"] = Field("train", description="Split of the data set")
    limit: int = Field(0, ge=0, description="Maximum number of rows, sampled by --split-seed; 0: all")
    teacher: str | None = Field(
        None,
        description="For sft: generate responses with this model instead of a template, and keep those that name the "
        "right label (rejection sampling): its name at --endpoint, or a folder or hub name for vLLM in this process",
    )
    endpoint: str | None = Field(
        None,
        description="OpenAI-compatible endpoint of the teacher, such as http://host:8000/v1; API key in OPENAI_API_KEY",
    )
    attempts: int = Field(4, ge=1, description="Maximum number of responses sampled per face, until one is correct")
    temperature: float = Field(0.7, ge=0, description="Sampling temperature of the teacher")
    max_new_tokens: int = Field(1024, ge=16, description="Maximum length of a response of the teacher in tokens")
    concurrency: int = Field(16, ge=1, description="Concurrent requests to --endpoint")
    trust_remote_code: bool = Field(False, description="Run the Python code that comes with a hub model")

    @property
    def rejected(self) -> str:
        """The file of the faces without a correct response of the teacher."""
        return self.out.removesuffix(".jsonl") + ".rejected.jsonl"

    @model_validator(mode="after")
    def _teacher_is_consistent(self) -> QuestionsConfig:
        if self.teacher and self.kind != "sft":
            raise ValueError("--teacher requires --kind sft")
        if self.endpoint and not self.teacher:
            raise ValueError("--endpoint requires --teacher, the name of the model there")
        return self
