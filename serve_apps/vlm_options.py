"""Options of the application `vlm`: an OpenAI-compatible server for vision-language models."""

from __future__ import annotations

from pydantic import Field

from serve_apps.options import ServerOptions


class VlmServeConfig(ServerOptions):
    """Serve a vision-language model behind OpenAI's chat API, with vLLM on Ray Serve."""

    model: str = Field(
        description="Vision-language model, or an adapter of one: a folder, a run, runs:/RUN_ID/model, "
        "models:/NAME@ALIAS, a name on the Hugging Face hub, or tiny:qwen2.5-vl"
    )
    name: str | None = Field(
        None, pattern=r"^[\w./:-]+$", description="Name that requests give as `model`; unset: derived from --model"
    )
    adapters: dict[str, str] = Field(
        {},
        description="LoRA adapters of the model that requests can name as `model`, each with its folder, run or "
        'registered model: {"chain": "models:/chain@champion"}',
    )
    image_size: int = Field(
        224, ge=0, le=2048, description="Side that images are resized to, as in training; 0 keeps their size"
    )
    max_images: int = Field(4, ge=1, description="Images per request, at most")
    max_new_tokens: int = Field(
        1024, ge=1, description="Longest response in tokens; requests that ask for more are rejected"
    )
    max_context: int | None = Field(
        None, ge=64, description="Longest prompt and response together, in tokens; unset: what model and memory allow"
    )
    min_replicas: int = Field(
        1, ge=0, description="Engines, at least; 0: none after ten minutes without a request, until the next one"
    )
    max_replicas: int = Field(1, ge=1, description="Engines under load, at most")
    max_queued_requests: int = Field(64, ge=1, description="Requests that may wait; further ones get status 503")
    max_batch_size: int = Field(16, ge=1, description="Requests that a replica generates at a time, at most")
    tensor_parallel: int = Field(1, ge=1, description="GPUs that the model of one replica is split over")
    trust_remote_code: bool = Field(False, description="Run the Python code that comes with a hub model")
