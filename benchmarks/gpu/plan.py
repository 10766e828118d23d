"""Memory and time of the recipes for 7B, computed for GPUs of 80 GB: the table of docs/vlm.md.

    python -m benchmarks.gpu.plan

Memory is `fer.vlm.memory`'s estimate. Times follow from counted operations and moved bytes at the rates below, which no
GPU of ours has confirmed yet; `make gpu` measures what they are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.models import QWEN_7B, shaped_config

SFT_ROW = 64 + 150 + 200
"""Tokens of a row: image, question, and response."""
LONGEST_ROW = 512
PROMPT, COMPLETION = 64 + 150, 300
"""Tokens of a prompt, and the mean length of a completion."""
FLOPS = 0.4 * 989e12
"""Of training on an H100 in bf16: 40% of the peak."""
LINK = 200e9
"""Bytes per second of a collective over NVLink."""
DECODE_STEP = 0.010
"""Seconds of a step of the engine with 224 running completions: 15 GB of weights at 3.35 TB/s, and half again."""
FORWARD, BACKWARD, RECOMPUTED = 1, 2, 1
LANGUAGE, VISION, PATCHES = 7.07e9, 0.63e9, 256
"""Weights that each token, or each patch of an image of 224 pixels, is multiplied with."""
WEIGHTS = 16.6e9
"""Bytes of the weights in bf16."""


class Row(NamedTuple):
    """A line of the table."""

    recipe: str
    gpus: int
    roles: str
    memory: dict[str, float]
    seconds: float
    hours: float


def rows(model: str) -> Iterator[Row]:
    """``model``: a folder with the config of the 7B model."""
    for recipe in ("unifer-sft-7b", "ferry-sft-7b"):
        for gpus in (4, 8):
            yield sft_row(recipe, gpus, model)
    for recipe in ("unifer-grpo-7b", "ferry-grpo-7b"):
        for gpus in (4, 8):
            yield grpo_row(recipe, gpus, model)


def operations(tokens: float, images: float, passes: float) -> float:
    return 2 * passes * (tokens * LANGUAGE + images * PATCHES * VISION)


def sft_row(recipe: str, gpus: int, model: str) -> Row:
    from fer.options import parse
    from fer.vlm.memory import estimate_training_memory
    from fer.vlm.options import SftConfig
    from jobs.commands import RECIPES

    words = ["--config", recipe, "--data", "x", "--workers", str(gpus)]
    config = parse(SftConfig, words, "sft", RECIPES / "sft")
    longest = config.batch_size * LONGEST_ROW
    loss_tokens = longest if config.loss_on == "all" else config.batch_size * (LONGEST_ROW - PROMPT)
    memory = estimate_training_memory(config, model, longest, loss_tokens)
    images = config.batch_size * config.grad_accum_steps
    compute = operations(images * SFT_ROW, images, FORWARD + BACKWARD + RECOMPUTED * config.grad_checkpointing) / FLOPS
    # ZeRO-2 reduces the gradients of every batch, which overlaps with its backward pass, and gathers the weights once.
    seconds = max(compute, config.grad_accum_steps * WEIGHTS / LINK) + WEIGHTS / LINK
    steps = config.epochs * 230_000 / (images * gpus)
    return Row(recipe, gpus, f"{gpus} trainers", memory, seconds, steps * seconds / 3600)


def grpo_row(recipe: str, gpus: int, model: str) -> Row:
    from fer.grpo.options import GrpoConfig
    from fer.grpo.preflight import estimate_memory
    from fer.options import parse
    from jobs.commands import RECIPES

    prompts = 28 // 7 * (gpus - 1)
    words = ["--config", recipe, "--data", "x", "--workers", str(gpus - 1), "--prompts-per-step", str(prompts)]
    config = parse(GrpoConfig, words, "grpo", RECIPES / "grpo")
    estimate = estimate_memory(config, model, PROMPT)
    memory = {name.removeprefix("trainer: "): size for name, size in estimate.items() if name.startswith("trainer")}
    completions = config.completions_per_worker
    passes = FORWARD + BACKWARD + RECOMPUTED + FORWARD * bool(config.beta)
    update = operations(completions * (PROMPT + COMPLETION), completions, passes) / FLOPS
    if config.deepspeed == "zero3":  # gathers the weights in each of these passes, for each batch
        update = max(update, passes * completions / config.batch_size * WEIGHTS / LINK)
    update += 2 * WEIGHTS / LINK
    sampling, sync = config.max_new_tokens * DECODE_STEP, 2 * WEIGHTS / LINK
    seconds = sync + (max(sampling, update) if config.async_level else sampling + update)
    return Row(recipe, gpus, f"{gpus - 1} + 1", memory, seconds, 360_000 / prompts * seconds / 3600)


def table() -> list[str]:
    """The lines of the table in Markdown."""
    from fer.vlm.tiny import build_tiny

    with tempfile.TemporaryDirectory() as scratch:
        tiny = str(build_tiny("qwen2.5-vl", Path(scratch)))
        shaped_config(QWEN_7B, tiny).save_pretrained(scratch)
        found = list(rows(scratch))
    lines = [
        "| recipe | GPUs | weights | gradients | optimizer | buffers | activations, logits | reference | **total** | "
        "step | whole recipe |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        memory: dict[str, Any] = {name: f"{size / 1e9:.0f}" for name, size in row.memory.items()}
        buffers = (row.memory["buffers"] + row.memory.get("sync buckets", 0)) / 1e9
        activations = (row.memory["activations"] + row.memory["logits"]) / 1e9
        lines.append(
            f"| `{row.recipe}` | {row.gpus} ({row.roles}) | {memory['weights']} | {memory['gradients']} | "
            f"{memory['optimizer']} | {buffers:.0f} | {activations:.0f} | {memory.get('reference model', '–')} | "
            f"**{memory['total']}** | {row.seconds:.1f} s | {row.hours:.0f} h |"
        )
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
