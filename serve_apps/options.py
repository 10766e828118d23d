"""Options of `fer serve` and `fer dynamics serve`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fer.faces.options import FaceOptions
from fer.options import Options
from fer.plugins import Registry
from fer.registry import DEFAULT_MODEL
from fer.tracking import TrackingOptions

APPS = Registry(
    "--apps",
    "fer.serve_apps",
    {
        "classifier": "serve_apps.classifier.app:build_app",
        "live": "serve_apps.live.app:build_app",
        "vlm": "serve_apps.vlm.app:build_app",
    },
)
"""Functions that build the Ray Serve applications of `fer serve` from their configs."""

MODEL_HELP = (
    "Model to serve: models:/NAME@ALIAS (reloaded when the alias moves), models:/NAME/VERSION, runs:/RUN_ID/model, "
    "the folder of a model or run"
)


class LimitOptions(TrackingOptions):
    """Limits of a request. Anything beyond them is rejected before it is decoded."""

    max_request_bytes: int = Field(32 * 2**20, ge=1, description="Largest request body, in bytes")
    max_image_bytes: int = Field(10 * 2**20, ge=1, description="Largest encoded image, in bytes")
    max_pixels: int = Field(25_000_000, ge=1, description="Largest image, in pixels (width x height)")
    max_images: int = Field(16, ge=1, description="Images per request, at most")
    max_upload_seconds: float = Field(30, gt=0, description="Longest time that a request may take to arrive")


class KeyOptions(Options):
    """What clients must send."""

    token: str | None = Field(
        None,
        min_length=16,
        description="Token that clients must send as `Authorization: Bearer TOKEN`; better set in the environment "
        "(FER_SERVE_TOKEN for `fer serve`). Unset: generated and printed, if --host is not the loopback address",
    )
    api_keys: str | None = Field(
        None,
        description="File with API keys that clients may send in place of the token, each with scopes and a rate: "
        "`fer keys new` adds one",
    )


class ServerOptions(LimitOptions, KeyOptions):
    """The model, the address, authentication and scaling."""

    model: str = Field(description=MODEL_HELP)
    host: str = Field("127.0.0.1", description="Address to listen on; any but the loopback address requires a token")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on")
    tls_certificate: str | None = Field(
        None, description="PEM file with a certificate and its private key, to speak HTTPS; unset: plain HTTP"
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="Device to run the model on; auto: a GPU if the cluster has one"
    )
    min_replicas: int | None = Field(
        None,
        ge=0,
        description="Replicas of the model, at least; 0: none after ten minutes without a request, and the next one "
        "waits for the start. Unset: one for each GPU, or each CPU up to 8",
    )
    max_replicas: int | None = Field(
        None, ge=1, description="Replicas of the model under load, at most; unset: as --min-replicas"
    )
    cpus_per_replica: float = Field(1, gt=0, description="CPUs that Ray reserves for each replica")
    gpus_per_replica: float = Field(
        1, gt=0, le=1, description="GPU that each replica on one reserves; 0.5: two share a GPU and its memory"
    )
    max_queued_requests: int = Field(
        64, ge=1, description="Requests that may wait in each replica; further ones get status 503"
    )
    reload_seconds: float = Field(5, gt=0, description="Interval between two look-ups of the alias, in seconds")
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the metrics for Prometheus; unset: any free one, which is printed"
    )
    log_format: Literal["json", "text"] | None = Field(
        None,
        description="Log each request as a line of JSON or text, on the console and in Ray's log folder; unset: do not",
    )
    log_labels: bool = Field(False, description="Add the predicted labels to the lines of --log-format")

    @model_validator(mode="after")
    def _fits_together(self) -> ServerOptions:
        if self.min_replicas and self.max_replicas and self.max_replicas < self.min_replicas:
            raise ValueError(f"--max-replicas {self.max_replicas} is below --min-replicas {self.min_replicas}")
        return self


class VlmOptions(Options):
    """Options of the application `vlm` that no other one has."""

    name: str | None = Field(
        None, pattern=r"^[\w./:-]+$", description="vlm: name that requests give as `model`; unset: derived from --model"
    )
    adapters: dict[str, str] = Field(
        {},
        description="vlm: LoRA adapters of the model that requests can name as `model`, each with its folder, run or "
        'registered model: {"chain": "models:/chain@champion"}',
    )
    image_size: int = Field(
        224, ge=0, le=2048, description="vlm: side that images are resized to, as in training; 0 keeps their size"
    )
    max_new_tokens: int = Field(
        1024, ge=1, description="vlm: longest response in tokens; requests that ask for more are rejected"
    )
    max_context: int | None = Field(
        None,
        ge=64,
        description="vlm: longest prompt and response together, in tokens; unset: what model and memory allow",
    )
    tensor_parallel: int = Field(1, ge=1, description="vlm: GPUs that the model of one replica is split over")
    trust_remote_code: bool = Field(False, description="vlm: run the Python code that comes with a hub model")


class ServeConfig(ServerOptions, FaceOptions, VlmOptions):
    """Serve trained models over HTTP with Ray Serve: classifiers, or with --apps vlm a vision-language model."""

    model: str = Field(DEFAULT_MODEL, description=f"{MODEL_HELP}, or a bundled model")
    apps: list[str] = Field(
        ["classifier", "live"],
        min_length=1,
        description="Applications, separated by commas: classifier, live (video on the page), vlm, those of "
        "installed packages, or module:build_app of your own; with --file, their names in it",
    )
    file: str | None = Field(
        None,
        description="Serve config (YAML, as for `serve deploy`) with the applications and their arguments; their "
        "options here have no effect then",
    )
    models: list[str] = Field(
        [],
        description="Further models that requests may choose by name, separated by commas: NAME@ALIAS, NAME@VERSION, "
        "folders or bundled models. Each replica loads them when they are asked for",
    )
    max_loaded_models: int = Field(
        3, ge=1, description="Models of --models in each replica's memory, at most; those used last are kept"
    )
    challenger: str | None = Field(
        None, description="Second model, with the same label space, for --canary or --shadow: models:/NAME@challenger"
    )
    canary: float = Field(0.0, ge=0, le=1, description="Share of the clients that the challenger answers")
    shadow: bool = Field(
        False, description="Let the challenger predict what the model answers, and report how often they agree"
    )
    min_confidence: float = Field(0.0, ge=0, le=1, description="Mark faces with a confidence below this as uncertain")
    compound: bool = Field(
        False, description="Also return RAF-DB's compound label of the two most probable expressions"
    )
    on_device: bool = Field(
        False, description="Let browsers download and run the model; the bundled model is always offered"
    )
    max_batch_size: int = Field(8, ge=1, description="Requests per batch, at most")
    batch_wait_ms: float = Field(2, ge=0, description="Longest wait for a batch to fill, in milliseconds")

    @model_validator(mode="after")
    def _knows_apps(self) -> ServeConfig:
        if self.file is None:  # which has names of its own
            for name in self.apps:
                try:
                    APPS.check(name)
                except ValueError as error:
                    raise ValueError(f"--apps {name}: {error}") from None
        return self

    @model_validator(mode="after")
    def _has_vlm(self) -> ServeConfig:
        unused = sorted(VlmOptions.model_fields.keys() & self.model_fields_set)
        if unused and "vlm" not in self.apps and self.file is None:
            raise ValueError(f"--{unused[0].replace('_', '-')} is an option of the application vlm: use --apps vlm")
        return self

    @model_validator(mode="after")
    def _has_challenger(self) -> ServeConfig:
        if self.challenger is None and (self.canary or self.shadow):
            raise ValueError("--canary and --shadow need a --challenger")
        if self.challenger and bool(self.canary) == self.shadow:
            raise ValueError("--challenger needs either --canary or --shadow")
        return self


class DynamicsServeConfig(ServerOptions):
    """Serve a facial dynamics model over HTTP with Ray Serve. Its scores are research scores, not a diagnosis."""

    landmarker: str | None = Field(
        None, description="MediaPipe's Face Landmarker bundle (.task), required for videos; unset: frames only"
    )
    max_frames: int = Field(300, ge=1, description="Frames per video, at most")
