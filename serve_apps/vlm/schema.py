"""Requests and responses of the chat API: the part of OpenAI's that a model of faces needs.

Fields that are not listed here are rejected: vLLM would take templates, processor arguments and grammars from clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from serve_apps.schema import ModelInfo, Schema

Label = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r'^[^\x00-\x1f"\\]+$')]
"""A response that guided decoding allows."""
Labels = Annotated[list[Label], Field(min_length=1, max_length=256)]


class StrictSchema(Schema):
    """An object without further fields."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class TextPart(Schema):
    type: Literal["text"]
    text: str


class ImageUrl(Schema):
    url: str = Field(description="The image itself, as a data URI: data:image/jpeg;base64,... No URL is opened")


class ImagePart(Schema):
    type: Literal["image_url"]
    image_url: ImageUrl


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


def _text_as_part(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Message(Schema):
    """One message of a conversation. Other fields, such as those of a response that is sent back, are ignored."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[
        list[ContentPart], BeforeValidator(_text_as_part, json_schema_input_type=str | list[ContentPart])
    ]

    @model_validator(mode="after")
    def _images_come_from_the_user(self) -> Message:
        if self.role != "user" and any(isinstance(part, ImagePart) for part in self.content):
            raise ValueError("only messages of the role user can have images")
        return self


class LabelProperty(StrictSchema):
    type: Literal["string"]
    enum: Labels


class LabelObject(StrictSchema):
    """A JSON schema: an object whose fields are each one of some labels."""

    type: Literal["object"]
    properties: dict[Label, LabelProperty] = Field(min_length=1, max_length=16)
    required: list[str]
    additionalProperties: Literal[False]  # noqa: N815


class NamedSchema(StrictSchema):
    name: str = Field(max_length=64)
    strict: bool = True
    schema_: LabelObject = Field(alias="schema")


class ResponseFormat(StrictSchema):
    type: Literal["text", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError("json_schema goes with the type json_schema")
        return self


class StructuredOutputs(StrictSchema):
    choice: Labels = Field(description="The only responses that are allowed, such as labels")


class StreamOptions(StrictSchema):
    include_usage: bool = False


class ChatRequest(StrictSchema):
    model: str = Field(max_length=200)
    messages: list[Message] = Field(min_length=1, max_length=64)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1, ge=0, le=2, description="0: greedy decoding")
    top_p: float = Field(1, gt=0, le=1)
    presence_penalty: float = Field(0, ge=-2, le=2)
    frequency_penalty: float = Field(0, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: Literal[1] = 1
    stream: bool = Field(False, description="Send the response as server-sent events while it is generated")
    stream_options: StreamOptions | None = None
    structured_outputs: StructuredOutputs | None = Field(None, description="vLLM's guided decoding, to choices only")
    guided_choice: Labels | None = Field(None, description="Former name of structured_outputs.choice")
    response_format: ResponseFormat | None = Field(
        None, description="A JSON schema of an object whose fields are each one of some labels"
    )
    user: str | None = Field(None, description="Ignored")

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options go with stream")
        guided = (self.structured_outputs, self.guided_choice, self.response_format)
        if sum(each is not None for each in guided) > 1:
            raise ValueError("give one of structured_outputs, guided_choice and response_format")
        return self


class ErrorDetail(Schema):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ChatErrorResponse(Schema):
    """Body of every response with a status of 400 or more, in OpenAI's form."""

    error: ErrorDetail


class ModelCard(Schema):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ferry"
    parent: str | None = Field(None, description="The model that an adapter belongs to")
    version: str | None = Field(description="Version in the registry; null if the model is not from there")


class ChatModelList(Schema):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class VlmHealth(Schema):
    """State of the server."""

    status: Literal["ok", "idle"] = Field("ok", description="idle: no replica runs; the next request starts one")
    model: ModelInfo
    replicas: int = Field(description="Replicas of the model that are running")
    uptime_seconds: float


@dataclass(frozen=True)
class Rejected:
    """Returned by a replica of the model instead of a response."""

    status: int
    reason: str
