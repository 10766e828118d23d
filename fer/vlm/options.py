"""Options of vision-language models and their training. No torch."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from fer.data.options import QuestionOptions
from fer.options import Options
from fer.tracking import TrackingOptions
from fer.training.options import CheckpointOptions

ModelPart = Literal["vision", "projector", "language"]
"""The parts of every image-text model: image encoder, projector and language model."""


class VlmModelOptions(Options):
    """Which model, and which of its weights are trained."""

    model: str = Field(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        description="Image-text model: a folder, a registered model (models:/NAME@ALIAS), a name on the Hugging Face "
        "hub, or tiny:qwen2.5-vl / qwen3-vl / smolvlm / gemma3, tiny models with random weights for tests",
    )
    trust_remote_code: bool = Field(False, description="Run the Python code that comes with a hub model")
    attention: str = Field(
        "auto", description="Attention implementation of transformers; auto: flash_attention_2 if installed, else sdpa"
    )
    precision: Literal["bf16", "fp32"] = Field("bf16", description="Data type of weights and activations")
    train: list[ModelPart] = Field(
        ["projector", "language"], min_length=1, description="Parts of the model to train; the others are frozen"
    )
    grad_checkpointing: bool | None = Field(
        None,
        description="Recompute activations in the backward pass, to save memory at the cost of another forward pass; "
        "unset: if the estimated memory does not fit the device without it",
    )


class ImageOptions(Options):
    """Size of the images that the model sees. Qwen2.5-VL uses 64 tokens for 224x224 pixels."""

    image_size: int = Field(224, ge=28, le=2048, description="Side in pixels that images are resized to")
    min_pixels: int | None = Field(
        None,
        ge=784,
        description="Keep each image's aspect ratio, with at least this many pixels; instead of --image-size",
    )
    max_pixels: int | None = Field(
        None, ge=784, description="Keep each image's aspect ratio, with at most this many pixels"
    )

    @property
    def fixed_size(self) -> bool:
        """Whether every image is resized to a square of ``image_size``."""
        return self.min_pixels is None and self.max_pixels is None


class LoraOptions(Options):
    """Low-rank adapters (Hu et al., 2021; DoRA: Liu et al., 2024) instead of the weights themselves."""

    lora: Literal["off", "lora", "dora"] = Field(
        "off", description="Train adapters of the linear layers of --train instead of the weights"
    )
    lora_rank: int = Field(32, ge=1, description="Rank of the adapters")
    lora_alpha: int = Field(16, ge=1, description="Adapters are scaled by alpha / rank")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="Dropout on the adapters' input")


class DeepSpeedOptions(Options):
    """Optimizer, learning-rate schedule and DeepSpeed configuration."""

    epochs: int = Field(1, ge=1, description="Passes over the training rows")
    lr: float = Field(1e-5, gt=0, description="Peak learning rate")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay; biases and normalisation are exempt")
    scheduler: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        "cosine", description="Learning rate schedule after the warm-up"
    )
    warmup: float = Field(0.03, ge=0, lt=1, description="Fraction of all steps with linear warm-up")
    clip_grad: float = Field(1.0, gt=0, description="Maximum gradient norm")
    deepspeed: str = Field("zero2", description="DeepSpeed configuration: zero2, zero2-offload, zero3, or a JSON file")


class VlmTrainingOptions(VlmModelOptions, ImageOptions, LoraOptions, DeepSpeedOptions, CheckpointOptions):
    """Options of every training job of a vision-language model."""

    mutable_options: ClassVar[frozenset[str]] = frozenset({"staging_folder", "profile"})

    save_total_limit: int = Field(2, ge=1, description="Number of checkpoints to keep")
    save_only_model: bool = Field(
        False,
        description="Save the weights alone in checkpoints, 2 bytes a parameter instead of 14; training resumes from "
        "them with a new optimizer state",
    )
    staging_folder: str | None = Field(
        None,
        description="Folder on each node for checkpoints until they are in --storage; unset: the temporary folder",
    )
    profile: bool = Field(False, description="Log a torch trace of three steps as an artifact of the run")
    peak_tflops: float | None = Field(
        None, gt=0, description="Peak TFLOPS of the device, for MFU; unset: known for some GPUs"
    )

    @model_validator(mode="after")
    def _workers_are_fixed(self) -> Self:
        if self.min_workers:
            raise ValueError("--workers: the optimizer's state is divided among a fixed number of workers")
        return self

    @model_validator(mode="after")
    def _saves_whole_models(self) -> Self:
        if self.save_only_model and self.lora != "off":
            raise ValueError("--save-only-model: checkpoints of adapters are small anyway; leave it out with --lora")
        return self

    @model_validator(mode="after")
    def _image_fits(self) -> Self:
        if not self.fixed_size and self.max_pixels is None:
            raise ValueError("--min-pixels needs --max-pixels: otherwise an image can have more tokens than a row")
        if (self.min_pixels or 0) > (self.max_pixels or float("inf")):
            raise ValueError("--min-pixels is above --max-pixels")
        return self


class BatchOptions(Options):
    """Batches, sequence length and loss masking."""

    batch_size: int = Field(1, ge=1, description="Rows per worker and batch")
    grad_accum_steps: int = Field(4, ge=1, description="Batches whose gradients are accumulated for one optimizer step")
    bucket_batches: int = Field(
        32,
        ge=1,
        description="Sort rows by length in buckets of this many batches, which reduces padding; 1: no sorting",
    )
    max_tokens: int = Field(
        2048, ge=64, description="Maximum length of a row in tokens, image included; longer rows are truncated"
    )
    loss_on: Literal["assistant", "all"] = Field(
        "assistant", description="Tokens that carry loss: the assistant's turns, or all text (as UniFER's script does)"
    )
    system_prompt: str | None = Field(
        None, description="System turn of the training rows; it may be empty. Unset: what the chat template adds itself"
    )
    decode_threads: int = Field(1, ge=1, le=64, description="Threads per worker that decode images and tokenise")


class ValidationOptions(Options):
    """Logging and validation during training."""

    log_every: int = Field(10, ge=1, description="Log metrics every N optimizer steps")
    eval_steps: int = Field(
        0, ge=0, description="Validate every N optimizer steps, besides each epoch; 0: each epoch only"
    )
    eval_rows: int = Field(512, ge=0, description="Maximum number of validation rows for the loss")
    eval_generations: int = Field(
        64,
        ge=0,
        description="Maximum number of validation rows to generate responses for, to measure accuracy and format",
    )
    eval_max_new_tokens: int = Field(512, ge=8, description="Maximum length of a generated response in tokens")


class SftConfig(QuestionOptions, VlmTrainingOptions, BatchOptions, ValidationOptions):
    """Fine-tune a vision-language model on questions and answers about faces (SFT), fully or with adapters."""


class MergeConfig(TrackingOptions):
    """Merge an adapter into its base model, into a folder that vLLM and transformers load without PEFT."""

    adapter: str = Field(description="Adapter: a folder, a run or models:/NAME@ALIAS")
    out: str = Field(description="Folder for the merged model")
    base: str | None = Field(None, description="Base model; unset: the one the adapter was trained on")
    trust_remote_code: bool = Field(False, description="Run the Python code that comes with a hub model")
