"""Options of the application `vlm`: an OpenAI-compatible server for vision-language models."""

from __future__ import annotations

from pydantic import Field

from serve_apps.options import ServerOptions, VlmOptions


class VlmServeConfig(ServerOptions, VlmOptions):
    """Serve a vision-language model behind OpenAI's chat API, with vLLM on Ray Serve."""

    model: str = Field(
        description="Vision-language model, or an adapter of one: a folder, a run, runs:/RUN_ID/model, "
        "models:/NAME@ALIAS, a name on the Hugging Face hub, or tiny:qwen2.5-vl"
    )
    max_images: int = Field(4, ge=1, description="Images per request, at most")
    min_replicas: int = Field(
        1,
        ge=0,
        description="Engines, at least; 0: none after ten minutes without a request, until the next one",
    )
    max_replicas: int = Field(1, ge=1, description="Engines under load, at most")
    max_queued_requests: int = Field(64, ge=1, description="Requests that may wait; further ones get status 503")
    max_batch_size: int = Field(16, ge=1, description="Requests that a replica generates at a time, at most")
