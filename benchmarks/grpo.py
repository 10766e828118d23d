"""Speed of `fer grpo` against TRL's GRPOTrainer on one machine: the same model, prompts, group size and lengths.

Both use two trainers (DeepSpeed ZeRO-2) and one vLLM engine. TRL's own vLLM modes do not run on a CPU, so here its
trainers send their prompts to the same engine as Ferry's. Nearly all completions have the maximum length, because a
random model rarely samples the end token.

    python -m benchmarks.grpo --rounds 2
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.grpo_curve import write_questions
from benchmarks.sft import ModelSizeOptions, make_model
from fer.options import parse

WARMUP_STEPS = 3
"""Steps at the start of a run that are not counted."""

PHASES = ("wait", "update", "sync")


class GrpoBenchmark(ModelSizeOptions):
    """Compare the speed of `fer grpo` and TRL's GRPOTrainer."""

    steps: int = Field(20, ge=6, description="Steps per run")
    prompts_per_step: int = Field(8, ge=2, multiple_of=2, description="Prompts per step")
    num_generations: int = Field(8, ge=2, description="Completions per prompt")
    max_new_tokens: int = Field(64, ge=8, description="Tokens per completion")
    rounds: int = Field(2, ge=1, description="Runs of each contender, in turn")


def main(config: GrpoBenchmark) -> None:
    from cluster.local import connect

    connect(cpus=4)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_questions(root, per_label=-(-config.steps * config.prompts_per_step // 7))
        make_model(config, root / "model")
        contenders: dict[str, Callable[[int], list[dict[str, float]]]] = {
            "TRL's GRPOTrainer": lambda number: run_trl(config, root),
            "Ferry, on-policy": lambda number: run_ferry(config, root, f"sync-{number}", async_level=0),
            "Ferry, asynchronous": lambda number: run_ferry(config, root, f"async-{number}", async_level=1),
        }
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for number in range(config.rounds):
            for name, run in contenders.items():
                rounds[name].append(summarise(run(number), config))
                print(name, {key: round(value, 3) for key, value in rounds[name][-1].items()}, flush=True)
    base = statistics.median(each["completions_per_second"] for each in rounds["TRL's GRPOTrainer"])
    for name, results in rounds.items():
        rates = [each["completions_per_second"] for each in results]
        phases = "  ".join(f"{phase} {statistics.median(each[phase] for each in results):.3f} s" for phase in PHASES)
        step = statistics.median(each["step"] for each in results)
        print(
            f"{name:<20}{statistics.median(rates):7.1f} completions/s  ({min(rates):.1f} to {max(rates):.1f})  "
            f"{statistics.median(rates) / base:.2f} x TRL   step {step:.3f} s: {phases}"
        )


def summarise(steps: list[dict[str, float]], config: GrpoBenchmark) -> dict[str, float]:
    """Medians over the steps of a run, without the warm-up."""
    measured = steps[WARMUP_STEPS:]
    medians = {name: statistics.median(step[name] for step in measured) for name in ("step", *PHASES)}
    return medians | {"completions_per_second": config.prompts_per_step * config.num_generations / medians["step"]}


def grpo_config(config: GrpoBenchmark, root: Path, **options: Any) -> Any:
    from fer.grpo.options import GrpoConfig

    return GrpoConfig(
        data=str(root / "grpo.jsonl"),
        val_split=0,
        model=str(root / "model"),
        storage=str(root / "runs"),
        train=["projector", "language"],
        precision="fp32",
        device="cpu",
        workers=2,
        threads=1,
        prompts_per_step=config.prompts_per_step,
        num_generations=config.num_generations,
        batch_size=config.prompts_per_step // 2 * config.num_generations,
        beta=0,
        lr=1e-6,
        image_size=config.image_size,
        max_prompt_tokens=256,
        max_new_tokens=config.max_new_tokens,
        grad_checkpointing=False,
        check_sync_every=0,
        log_completions_every=0,
        **options,
    )


def run_ferry(config: GrpoBenchmark, root: Path, name: str, async_level: int) -> list[dict[str, float]]:
    """Run `fer grpo`; the times of its steps."""
    from mlflow.tracking import MlflowClient

    from fer.tracking import tracking_uri
    from jobs.grpo import main as train_grpo

    options = grpo_config(config, root, name=name, async_level=async_level)
    train_grpo(options)
    run_id = json.loads((root / "runs" / name / "run.json").read_text())["mlflow_run_id"]
    client = MlflowClient(tracking_uri(options))
    names = {f"time/{name}": name for name in ("step", *PHASES)}
    series = {short: [p.value for p in client.get_metric_history(run_id, long)] for long, short in names.items()}
    return [dict(zip(series, values, strict=True)) for values in zip(*series.values(), strict=True)][: config.steps]


def run_trl(config: GrpoBenchmark, root: Path) -> list[dict[str, float]]:
    """Run GRPOTrainer on Ray Train workers, with one of Ferry's engines; the times of its steps."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from fer.grpo.engine_launch import running_engines
    from fer.grpo.preflight import visual_token_ids

    options, model, out = grpo_config(config, root), str(root / "model"), root / "trl.json"
    settings = {"config": config.model_dump(), "root": str(root), "out": str(out)}
    with running_engines(options, model, visual_token_ids(options, model), use_gpu=False) as engines:
        TorchTrainer(
            trl_worker,
            train_loop_config=settings | {"engines": engines},
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name=f"trl-{time.time_ns()}", storage_path=str(root / "trl-runs")),
        ).fit()
    return json.loads(out.read_text())


def trl_worker(settings: dict[str, Any]) -> None:
    """One TRL trainer; rank 0 writes the times of its steps."""
    import os

    os.environ.update(ACCELERATE_USE_DEEPSPEED="true", DS_ACCELERATOR="cpu", TRL_EXPERIMENTAL_SILENCE="1")
    import numpy as np
    import torch
    from accelerate import PartialState
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiling it takes minutes
    torch.set_num_threads(1)
    PartialState(backend="gloo")
    import_utils = import_module("trl.import_utils")
    import_utils.is_vllm_available = lambda *args, **kwargs: False  # type: ignore[attr-defined]  # not imported here
    import datasets
    from PIL import Image
    from transformers import AutoModelForMultimodalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    from trl.generation.vllm_generation import VLLMGeneration

    from fer.data.vqa.questions import Turn
    from fer.grpo.engine_pool import EnginePool
    from fer.grpo.rollout import Prompt
    from fer.grpo.weight_sync import PolicyWeights
    from fer.training.worker import Worker
    from fer.vlm.chat import ChatFormat
    from fer.vlm.deepspeed import CONFIGS
    from fer.vlm.model import load_processor
    from fer.vlm.options import ImageOptions

    config, root = GrpoBenchmark(**settings["config"]), Path(settings["root"])
    options = grpo_config(config, root)
    worker = Worker.start(options)
    pool = EnginePool(settings["engines"], worker, timeout=300, sync_timeout=60)
    processor = load_processor(str(root / "model"))
    chat = ChatFormat(processor, ImageOptions(image_size=config.image_size), max_tokens=256)
    rows = [json.loads(line) for line in (root / "grpo.jsonl").read_text().splitlines()]
    text = chat.render_prompt([Turn(rows[0]["problem"])])
    seconds = dict.fromkeys(PHASES, 0.0)
    steps: list[dict[str, float]] = []

    class FerryGeneration(VLLMGeneration):  # type: ignore[misc]
        """Sends TRL's prompts and weights to Ferry's engine."""

        def __init__(self, trainer: Any) -> None:
            self.trainer, self.weights, self.version = trainer, None, 0

        def sync_weights(self) -> None:
            started = time.perf_counter()
            if self.weights is None:
                self.weights = PolicyWeights(self.trainer.accelerator.unwrap_model(self.trainer.model), torch.float32)
                pool.connect(self.weights, 0, cancel_requests=True)
            self.version += 1
            assert pool.sync_weights(self.weights, self.version) is not None
            seconds["sync"] += time.perf_counter() - started

        def generate(self, prompts: Any, images: Any, num_generations: int, profiler: Any = None) -> Any:
            started = time.perf_counter()
            pixels = [np.asarray(each[0].convert("RGB")) for each in images[::num_generations]]
            assert self.weights is not None
            outputs = pool.collect(pool.submit([Prompt(text, each) for each in pixels]), self.weights)
            for output, ids in zip(outputs, prompts[::num_generations], strict=True):
                assert output.prompt_token_ids == list(ids)
            completions = [completion for output in outputs for completion in output.completions]
            logprobs = [[[logprob] for logprob in completion.logprobs] for completion in completions]
            seconds["wait"] += time.perf_counter() - started
            return prompts, [completion.token_ids for completion in completions], logprobs, None

    class StepTimer(TrainerCallback):
        """Times each step; what is neither waiting nor sync counts as the update."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            now = time.perf_counter()
            if state.global_step > 1:
                step = now - self.previous
                steps.append({"step": step, **seconds, "update": step - seconds["wait"] - seconds["sync"]})
            self.previous = now
            seconds.update(dict.fromkeys(PHASES, 0.0))

    side = config.image_size
    data = datasets.Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["problem"]}],
                "image": Image.open(root / row["image_path"]).resize((side, side), Image.Resampling.BICUBIC),
                "solution": row["solution"],
            }
            for row in rows
        ]
    )
    zero2 = json.loads((CONFIGS / "zero2.json").read_text())
    zero2.pop("optimizer")
    trainer = GRPOTrainer(
        model=AutoModelForMultimodalLM.from_pretrained(root / "model", dtype=torch.float32),
        reward_funcs=[lambda completions, **kwargs: [float(len(c[0]["content"]) % 2) for c in completions]],
        args=GRPOConfig(
            output_dir=str(root / "trl"),
            per_device_train_batch_size=config.prompts_per_step // 2 * config.num_generations,
            num_generations=config.num_generations,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            max_completion_length=config.max_new_tokens,
            max_steps=config.steps,
            learning_rate=1e-6,
            beta=0.0,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            optim="adamw_torch",
            remove_unused_columns=False,
            deepspeed=zero2 | {"zero_allow_untested_optimizer": True},
            accelerator_config={"use_configured_state": True},
        ),
        train_dataset=data,
        processing_class=processor,
        callbacks=[StepTimer()],
    )
    for name, parameter in trainer.model.named_parameters():
        if ".visual." in name and "merger" not in name:
            parameter.requires_grad_(False)
    trainer.use_vllm, trainer._last_loaded_step = True, -1
    trainer.vllm_generation = FerryGeneration(trainer)
    trainer.train()
    if worker.is_rank_zero:
        Path(settings["out"]).write_text(json.dumps(steps))


if __name__ == "__main__":
    main(parse(GrpoBenchmark, sys.argv[1:], "benchmark"))
