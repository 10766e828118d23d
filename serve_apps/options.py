"""Options of the servers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import CliPositionalArg

from fer.plugins import Registry
from fer.tracking import TrackingOptions

# Functions (config, token, gpus) that build the Ray Serve application of `fer serve`.
APPS = Registry("--app", "fer.serve_apps", {"classifier": "serve_apps.classifier:build_app"})


class LimitOptions(TrackingOptions):
    """What a client may send. Everything past a limit is refused before it is decoded."""

    max_request_bytes: int = Field(32 * 2**20, ge=1, description="Largest request, in bytes")
    max_image_bytes: int = Field(10 * 2**20, ge=1, description="Largest encoded image, in bytes")
    max_pixels: int = Field(25_000_000, ge=1, description="Largest image, in pixels (width x height)")
    max_images: int = Field(16, ge=1, description="Most images in one request")


class ServerOptions(LimitOptions):
    """Which model is served, where, to whom, and in how many copies."""

    model: CliPositionalArg[str] = Field(
        description="Model to serve: models:/NAME@ALIAS (followed when the alias moves), models:/NAME/VERSION, "
        "runs:/RUN_ID/model, or the folder of a model or run"
    )
    host: str = Field("127.0.0.1", description="Address to listen on; any but the loopback needs a token")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on")
    token: str | None = Field(
        None,
        min_length=16,
        description="Clients must send it as `Authorization: Bearer TOKEN`; unset: the environment's (FER_SERVE_TOKEN "
        "for `fer serve`), else one is made and printed where --host is not the loopback",
    )
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="What computes; auto takes a GPU if there is one")
    min_replicas: int = Field(1, ge=1, description="Fewest copies of the model")
    max_replicas: int = Field(2, ge=1, description="Most copies of the model, under load")
    cpus_per_replica: float = Field(1, gt=0, description="CPUs that Ray reserves for each copy")
    max_queued_requests: int = Field(64, ge=1, description="Requests that may wait; further ones are answered 503")
    reload_seconds: float = Field(5, gt=0, description="How often the alias is looked up, in seconds")

    @model_validator(mode="after")
    def _fits_together(self) -> ServerOptions:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"--max-replicas {self.max_replicas} is below --min-replicas {self.min_replicas}")
        return self


class ServeConfig(ServerOptions):
    """Answer requests over HTTP with a trained classifier, on Ray Serve."""

    app: Annotated[str, AfterValidator(APPS.check)] = Field(
        "classifier",
        description="Application: classifier, one of an installed package, or module:build_app of your own",
    )
    detector: Literal["none", "haar", "yunet"] = Field(
        "none", description="Face detector; none: each image is one face that fills it"
    )
    detector_model: str | None = Field(None, description="YuNet's model file; unset: looked for in the cache")
    min_confidence: float = Field(0.0, ge=0, le=1, description="Faces below this confidence are marked uncertain")
    compound: bool = Field(
        False, description="Also answer with RAF-DB's compound label of the two likeliest expressions"
    )
    max_batch_size: int = Field(8, ge=1, description="Requests that are computed together")
    batch_wait_ms: float = Field(5, ge=0, description="Longest wait for a batch to fill, in milliseconds")


class DynamicsServeConfig(ServerOptions):
    """Score frames and short videos over HTTP, on Ray Serve. Research scores, not a diagnosis."""

    landmarker: str | None = Field(
        None, description="MediaPipe's Face Landmarker bundle (.task), for videos; unset: frames only"
    )
    max_frames: int = Field(300, ge=1, description="Most frames of a video")
