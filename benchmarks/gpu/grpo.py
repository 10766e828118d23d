"""20 steps of `fer grpo`: on one GPU trainer and engine share it, and the engine sleeps during the update."""

from __future__ import annotations

from pathlib import Path

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.models import IMAGE_SIZE, QWEN_3B, TINY, last_metrics, make_model, make_questions
from benchmarks.gpu.parts import Figures

STEPS, SKIPPED = 20, 3
METRICS = {
    "step, s": "time/step",
    "sampling and waiting, s": "time/wait",
    "update, s": "time/update",
    "sync, s": "time/sync",
    "tokens/s of the step": "throughput/tokens",
    "generated tokens/s": "throughput/generated_tokens",
    "MFU of the update": "mfu",
    "memory of a trainer, GB": "memory_gb",
    "difference of log-probabilities after a sync": "sync_logprob_diff",
    "mean length": "completions/mean_length",
}


def run(machine: Machine, scratch: Path, figures: Figures) -> None:
    """A 3B-shaped model: all its weights if there are several GPUs, adapters if there is one."""
    from fer.grpo.options import GrpoConfig
    from jobs.grpo import main as train

    one = machine.gpus <= 1
    workers = 1 if one else machine.gpus - 1
    prompts = 4 * workers if machine.gpus else 2
    model = make_model(QWEN_3B if machine.gpus else TINY, machine, scratch)
    config = GrpoConfig(
        data=str(make_questions("grpo", machine, scratch, rows=STEPS * prompts)),
        image_root=str(scratch / "faces"),
        model=str(model),
        storage=str(scratch / "runs"),
        name="grpo",
        train=["projector", "language"],
        lora="lora" if machine.shares_gpu else "off",
        precision="bf16" if machine.gpus else "fp32",
        device=machine.device,
        workers=workers,
        colocate=one,
        gpu_memory_utilization=0.4 if one else 0.85,
        prompts_per_step=prompts,
        num_generations=8 if machine.gpus else 4,
        batch_size=8 if machine.gpus else 4,
        image_size=IMAGE_SIZE if machine.gpus else 28,
        max_prompt_tokens=512 if machine.gpus else 160,
        max_new_tokens=256 if machine.gpus else 16,
        beta=0,
        val_split=0,
        check_sync_every=5,
        log_completions_every=0,
    )
    figures["mode"] = "one GPU for trainer and engine" if machine.shares_gpu else f"{workers} trainer(s) and an engine"
    figures["trained"] = "adapters" if machine.shares_gpu else "all weights but the image encoder's"
    train(config)
    for name, value in last_metrics(scratch / "runs" / "grpo", METRICS, skip=0 if one else SKIPPED).items():
        figures[name] = value
