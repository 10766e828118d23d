"""Options of `fer questions`: no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fer.data.options import DataOptions


class QuestionsConfig(DataOptions):
    """Make questions about faces from any data set of faces, in the form that UniFER publishes its own."""

    out: str = Field(pattern=r"\.jsonl$", description="The file to write, one question a line (.jsonl)")
    kind: Literal["ferbench", "grpo", "sft", "chain-of-affect"] = Field(
        "sft",
        description="ferbench: test questions; grpo: problems with their solution; sft: questions with a response; "
        "chain-of-affect: one or two turns that ask for labels",
    )
    split: Literal["train", "val", "test", "all"] = Field("train", description="Part of the data set")
    limit: int = Field(0, ge=0, description="Rows at most, chosen by --split-seed; 0: all")
    teacher: str | None = Field(
        None,
        description="For sft: let this model reason instead of a template, and keep the answers that name the right "
        "label: a model's name at --endpoint, or a folder or hub name for a local vLLM",
    )
    endpoint: str | None = Field(
        None,
        description="OpenAI-compatible endpoint of the teacher, such as http://host:8000/v1; its key in OPENAI_API_KEY",
    )
    attempts: int = Field(4, ge=1, description="Answers sampled of the teacher for each face, until one is right")
    temperature: float = Field(0.7, ge=0, description="Temperature of the teacher's answers")
    max_new_tokens: int = Field(1024, ge=16, description="Longest answer of the teacher, in tokens")
    concurrency: int = Field(16, ge=1, description="Faces that the teacher is asked about at a time")
    trust_remote_code: bool = Field(False, description="Run the Python code that comes with a teacher from the hub")

    @property
    def rejected(self) -> str:
        """The file of the faces that the teacher did not answer rightly."""
        return self.out.removesuffix(".jsonl") + ".rejected.jsonl"

    @model_validator(mode="after")
    def _fits_together(self) -> QuestionsConfig:
        if self.teacher and self.kind != "sft":
            raise ValueError("--teacher answers questions of --kind sft only")
        if self.endpoint and not self.teacher:
            raise ValueError("--endpoint needs --teacher, the name of the model there")
        return self
