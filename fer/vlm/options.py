"""Options of vision-language training: plain values, no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fer.data.options import QuestionOptions
from fer.options import Options
from fer.training.options import CheckpointOptions

Part = Literal["vision", "projector", "language"]
"""The three parts of every image-text model: image encoder, the bridge from it, and language model."""


class VlmModelOptions(Options):
    """Which model, and which of its weights learn."""

    model: str = Field(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        description="Image-text model: a folder, a registered model (models:/NAME@ALIAS), a name on the Hugging Face "
        "hub, or tiny:qwen2.5-vl / tiny:smolvlm, made on the spot with random weights for tests",
    )
    trust_remote_code: bool = Field(False, description="Run the Python code that comes with a hub model")
    attention: str = Field(
        "auto", description="Attention kernel, by transformers' name; auto: flash_attention_2 if installed, else sdpa"
    )
    precision: Literal["bf16", "fp32"] = Field("bf16", description="Type of weights and activations")
    train: list[Part] = Field(
        ["projector", "language"], min_length=1, description="Parts whose weights learn; the others stay frozen"
    )
    grad_checkpointing: bool = Field(True, description="Recompute activations in the backward pass, to save memory")


class ImageOptions(Options):
    """How large an image the model sees. An image of 224x224 costs Qwen2.5-VL 64 tokens."""

    image_size: int = Field(224, ge=28, le=2048, description="Side in pixels that images are resized to")
    min_pixels: int | None = Field(
        None, ge=784, description="Keep each image's shape, with at least so many pixels; instead of --image-size"
    )
    max_pixels: int | None = Field(None, ge=784, description="Likewise: at most so many pixels")

    @property
    def fixed_size(self) -> bool:
        """Whether every image is resized to a square of ``image_size``."""
        return self.min_pixels is None and self.max_pixels is None


class LoraOptions(Options):
    """Low-rank adapters (Hu et al., 2021; DoRA: Liu et al., 2024) instead of the weights themselves."""

    lora: Literal["off", "lora", "dora"] = Field("off", description="Train adapters of the parts in --train")
    lora_rank: int = Field(32, ge=1, description="Rank of the adapters")
    lora_alpha: int = Field(16, ge=1, description="Adapters are scaled by alpha / rank")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="Dropout on the adapters' input")


class DeepSpeedOptions(Options):
    """How the loss is minimised."""

    epochs: int = Field(1, ge=1, description="Passes over the training rows")
    lr: float = Field(1e-5, gt=0, description="Learning rate at its peak")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay; biases and normalisation are exempt")
    scheduler: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        "cosine", description="Learning rate schedule after the warm-up"
    )
    warmup: float = Field(0.03, ge=0, lt=1, description="Share of all steps in which the learning rate rises")
    clip_grad: float = Field(1.0, gt=0, description="Largest norm of a step's gradient")
    deepspeed: str = Field("zero2", description="DeepSpeed configuration: zero2, zero2-offload, zero3, or a JSON file")


class VlmTrainingOptions(VlmModelOptions, ImageOptions, LoraOptions, DeepSpeedOptions, CheckpointOptions):
    """What every training of a vision-language model has."""

    save_total_limit: int = Field(2, ge=1, description="Checkpoints that are kept")
    peak_tflops: float | None = Field(
        None, gt=0, description="The device's peak for MFU, in 1e12 operations a second; unset: known for some GPUs"
    )

    @model_validator(mode="after")
    def _image_fits(self) -> Self:
        if (self.min_pixels or 0) > (self.max_pixels or float("inf")):
            raise ValueError("--min-pixels is above --max-pixels")
        return self


class BatchOptions(Options):
    """What a step of supervised fine-tuning consists of."""

    batch_size: int = Field(1, ge=1, description="Rows per worker in one forward pass")
    grad_accum_steps: int = Field(4, ge=1, description="Forward passes whose gradients make one optimizer step")
    bucket_batches: int = Field(
        32,
        ge=1,
        description="Batches are cut from so many batches' rows sorted by length, which saves padding; 1: not sorted",
    )
    max_tokens: int = Field(2048, ge=64, description="Longest row in tokens, image included; longer ones are cut short")
    loss_on: Literal["assistant", "all"] = Field(
        "assistant", description="Tokens that carry loss: the assistant's turns, or all text (as UniFER's script does)"
    )
    decode_threads: int = Field(1, ge=1, le=64, description="Threads per worker that decode images and tokenise")


class ValidationOptions(Options):
    """What is looked at while training runs."""

    log_every: int = Field(10, ge=1, description="Optimizer steps between two entries in the log")
    eval_steps: int = Field(
        0, ge=0, description="Optimizer steps between two evaluations on the validation rows; 0: each epoch only"
    )
    eval_rows: int = Field(512, ge=0, description="Validation rows for the loss, at most")
    eval_generations: int = Field(
        64, ge=0, description="Validation rows that are answered, to judge answers and their form, at most"
    )
    eval_max_new_tokens: int = Field(512, ge=8, description="Longest generated answer, in tokens")


class SftConfig(QuestionOptions, VlmTrainingOptions, BatchOptions, ValidationOptions):
    """Fine-tune a vision-language model on questions and answers about faces (SFT), whole or with adapters."""


class MergeConfig(Options):
    """Merge an adapter into its base model: one folder that vLLM and transformers load without PEFT."""

    adapter: str = Field(description="Folder of the adapter, or of the run that made it")
    out: str = Field(description="Folder for the merged model")
    base: str | None = Field(None, description="Base model; unset: the one that the adapter was trained on")
    trust_remote_code: bool = Field(False, description="Run the Python code that comes with a hub model")
