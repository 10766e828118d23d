"""SFT of models in the shapes of Qwen2.5-VL: time of a step and memory, beside the estimate of the memory.

All weights are trained where the estimate fits the GPUs, else adapters. One GPU of 80 GB holds the 3B model with its
optimizer (60 GB); the 7B model needs four of them (ZeRO-2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.models import IMAGE_SIZE, QWEN_3B, QWEN_7B, TINY, Shape, last_metrics, make_model, make_questions
from benchmarks.gpu.parts import Figures

STEPS, SKIPPED = 12, 3
USABLE = 0.9
"""Share of a GPU's memory that the estimate may fill."""
METRICS = {
    "tokens/s, all GPUs": "tokens_per_second",
    "memory of a worker, GB": "memory_gb",
    "MFU": "mfu",
    "padding": "padding",
    "share of time that waits for data": "data_wait",
}


def run_3b(machine: Machine, scratch: Path, figures: Figures) -> None:
    fine_tune(QWEN_3B if machine.gpus else TINY, machine, scratch, figures)


def run_7b(machine: Machine, scratch: Path, figures: Figures) -> None:
    fine_tune(QWEN_7B if machine.gpus else TINY, machine, scratch, figures, adapters=not machine.gpus)


def fine_tune(shape: Shape, machine: Machine, scratch: Path, figures: Figures, adapters: bool = False) -> None:
    """``adapters``: train adapters even if all weights fit."""
    from fer.vlm.memory import estimate_training_memory
    from fer.vlm.options import SftConfig
    from jobs.sft import main as train

    model = make_model(shape, machine, scratch)
    workers, batch = machine.gpus or 1, 4
    options: dict[str, Any] = {
        "data": str(make_questions("sft", machine, scratch, rows=STEPS * workers * batch)),
        "image_root": str(scratch / "faces"),
        "model": str(model),
        "storage": str(scratch / "runs"),
        "name": "sft",
        "train": ["vision", "projector", "language"],
        "device": machine.device,
        "workers": workers,
        "batch_size": batch,
        "grad_accum_steps": 1,
        "bucket_batches": 1,
        "image_size": IMAGE_SIZE if machine.gpus else 56,
        "val_split": 0,
        "log_every": 1,
    }
    whole = SftConfig(**options)
    # Of a row: 64 tokens of the image and about 250 of text; the tiny tokenizer has longer texts than the real one.
    estimate = estimate_training_memory(whole, str(model), batch * 400, batch * 100)
    figures["estimate for all weights, GB"] = estimate["total"] / 1e9
    if adapters or (machine.gpus and estimate["total"] > USABLE * machine.memory):
        options["lora"] = "lora"
        estimate = estimate_training_memory(SftConfig(**options), str(model), batch * 400, batch * 100)
        figures["estimate for adapters, GB"] = estimate["total"] / 1e9
    figures["trained"] = "adapters" if "lora" in options else "all weights"
    figures["workers x rows"] = f"{workers} x {batch}"
    train(SftConfig(**options))
    run = scratch / "runs" / "sft"
    for name, value in last_metrics(run, METRICS, skip=SKIPPED).items():
        figures[name] = value
    rows = last_metrics(run, {"rows": "samples_per_second"}, skip=SKIPPED)["rows"]
    figures["seconds per step"] = workers * batch / rows
