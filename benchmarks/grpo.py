"""Speed of `fer grpo` against TRL's GRPOTrainer, in one run on one machine: same model, questions, group size, lengths.

Two trainers (DeepSpeed ZeRO-2) and one vLLM engine each. TRL's own ways of using vLLM do not run on a CPU; here it asks
the same engine, each trainer its own questions, as Ferry does. Completions all run to the limit: a random model hardly
ever ends by itself.

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
from benchmarks.sft import make_model
from fer.options import Options, parse

SKIPPED = 3
"""First steps of a run, in which things warm up."""

PHASES = ("wait", "update", "sync")


class GrpoBenchmark(Options):
    """Measure reinforcement learning against TRL's GRPOTrainer."""

    steps: int = Field(20, ge=6, description="Steps of each run")
    prompts: int = Field(8, ge=2, multiple_of=2, description="Questions a step")
    group_size: int = Field(8, ge=2, description="Completions of each")
    completion_tokens: int = Field(64, ge=8, description="Tokens of a completion")
    width: int = Field(256, ge=64, multiple_of=64, description="Width of the language model")
    layers: int = Field(4, ge=1, description="Its layers")
    image_size: int = Field(56, ge=28, description="Side of the images, in pixels")
    rounds: int = Field(2, ge=1, description="Times that all take turns")


def main(config: GrpoBenchmark) -> None:
    from cluster.local import connect

    connect(cpus=4)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_questions(root, per_label=-(-config.steps * config.prompts // 7))
        make_model(config, root / "model")
        contenders: dict[str, Callable[[int], list[dict[str, float]]]] = {
            "TRL's GRPOTrainer": lambda number: run_trl(config, root),
            "Ferry, on-policy": lambda number: run_ferry(config, root, f"now-{number}", depth=0),
            "Ferry, one ahead": lambda number: run_ferry(config, root, f"ahead-{number}", depth=1),
        }
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for number in range(config.rounds):
            for name, run in contenders.items():
                rounds[name].append(summarise(run(number), config))
                print(name, {key: round(value, 3) for key, value in rounds[name][-1].items()}, flush=True)
    base = statistics.median(each["samples_per_second"] for each in rounds["TRL's GRPOTrainer"])
    for name, results in rounds.items():
        rates = [each["samples_per_second"] for each in results]
        split = "  ".join(f"{phase} {statistics.median(each[phase] for each in results):.3f} s" for phase in PHASES)
        step = statistics.median(each["step"] for each in results)
        print(
            f"{name:<20}{statistics.median(rates):7.1f} samples/s  ({min(rates):.1f} to {max(rates):.1f})  "
            f"{statistics.median(rates) / base:.2f} x TRL   step {step:.3f} s: {split}"
        )


def summarise(steps: list[dict[str, float]], config: GrpoBenchmark) -> dict[str, float]:
    """Medians over the steps of a run, the first ones left out."""
    rest = steps[SKIPPED:]
    medians = {name: statistics.median(step[name] for step in rest) for name in ("step", *PHASES)}
    return medians | {"samples_per_second": config.prompts * config.group_size / medians["step"]}


def grpo_config(config: GrpoBenchmark, root: Path, **others: Any) -> Any:
    from fer.grpo.options import GrpoConfig

    return GrpoConfig(
        data=str(root / "grpo.jsonl"),
        val_split=0,
        model=str(root / "model"),
        out_dir=str(root / "runs"),
        train=["projector", "language"],
        precision="fp32",
        device="cpu",
        workers=2,
        threads=1,
        prompts=config.prompts,
        group_size=config.group_size,
        batch_size=config.prompts // 2 * config.group_size,
        beta=0,
        lr=1e-6,
        image_size=config.image_size,
        max_prompt_tokens=256,
        max_completion_tokens=config.completion_tokens,
        grad_checkpointing=False,
        check_sync_every=0,
        sample_every=0,
        **others,
    )


def run_ferry(config: GrpoBenchmark, root: Path, name: str, depth: int) -> list[dict[str, float]]:
    """`fer grpo`; the figures of its steps."""
    from mlflow.tracking import MlflowClient

    from fer.tracking import tracking_uri
    from jobs.grpo import main as reinforce

    options = grpo_config(config, root, name=name, async_depth=depth)
    reinforce(options)
    run_id = json.loads((root / "runs" / name / "run.json").read_text())["mlflow_run_id"]
    client = MlflowClient(tracking_uri(options))
    names = {"step_seconds": "step"} | {f"seconds_{phase}": phase for phase in PHASES}
    series = {short: [p.value for p in client.get_metric_history(run_id, long)] for long, short in names.items()}
    return [dict(zip(series, values, strict=True)) for values in zip(*series.values(), strict=True)][: config.steps]


def run_trl(config: GrpoBenchmark, root: Path) -> list[dict[str, float]]:
    """GRPOTrainer on Ray Train workers, with an engine of ours."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from fer.grpo.engine_pool import running_engines
    from fer.grpo.preflight import banned_tokens

    options, model, out = grpo_config(config, root), str(root / "model"), root / "trl.json"
    settings = {"config": config.model_dump(), "root": str(root), "out": str(out)}
    with running_engines(options, model, banned_tokens(options, model), use_gpu=False) as engines:
        TorchTrainer(
            trl_worker,
            train_loop_config=settings | {"engines": engines},
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name=f"trl-{time.time_ns()}", storage_path=str(root / "trl-runs")),
        ).fit()
    return json.loads(out.read_text())


def trl_worker(settings: dict[str, Any]) -> None:
    """One trainer of TRL's; the leading one writes the times of its steps."""
    import os

    os.environ.update(ACCELERATE_USE_DEEPSPEED="true", DS_ACCELERATOR="cpu", TRL_EXPERIMENTAL_SILENCE="1")
    import numpy as np
    import torch
    from accelerate import PartialState
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled, for minutes
    torch.set_num_threads(1)
    PartialState(backend="gloo")
    looks = import_module("trl.import_utils")
    looks.is_vllm_available = lambda *a, **b: False  # type: ignore[attr-defined]  # not in this process
    import datasets
    from PIL import Image
    from transformers import AutoModelForMultimodalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    from trl.generation.vllm_generation import VLLMGeneration

    from fer.data.vqa.questions import Turn
    from fer.grpo.engine_pool import Engines
    from fer.grpo.vllm_engine import Prompt
    from fer.grpo.weight_sync import Policy
    from fer.training.worker import Worker
    from fer.vlm.chat import ChatFormat
    from fer.vlm.model import load_processor
    from fer.vlm.options import ImageOptions

    config, root = GrpoBenchmark(**settings["config"]), Path(settings["root"])
    options = grpo_config(config, root)
    worker = Worker.start(options)
    engines = Engines(settings["engines"], worker, 300)
    processor = load_processor(str(root / "model"))
    chat = ChatFormat(processor, ImageOptions(image_size=config.image_size), max_tokens=256)
    rows = [json.loads(line) for line in (root / "grpo.jsonl").read_text().splitlines()]
    text = chat.render_prompt([Turn(rows[0]["problem"])])
    seconds = dict.fromkeys(PHASES, 0.0)
    steps: list[dict[str, float]] = []

    class Ours(VLLMGeneration):  # type: ignore[misc]
        """TRL's questions to our engine."""

        def __init__(self, trainer: Any) -> None:
            self.trainer, self.policy, self.version = trainer, None, 0

        def sync_weights(self) -> None:
            started = time.perf_counter()
            if self.policy is None:
                self.policy = Policy(self.trainer.accelerator.unwrap_model(self.trainer.model), torch.float32)
                engines.connect(self.policy, 0, fresh=True)
            self.version += 1
            assert engines.sync(self.policy, self.version) is not None
            seconds["sync"] += time.perf_counter() - started

        def generate(self, prompts: Any, images: Any, num_generations: int, profiler: Any = None) -> Any:
            started = time.perf_counter()
            pixels = [np.asarray(each[0].convert("RGB")) for each in images[::num_generations]]
            first = worker.rank * len(pixels)
            assert self.policy is not None
            groups = engines.collect(engines.ask([Prompt(text, each) for each in pixels], first), self.policy)
            for group, ids in zip(groups, prompts[::num_generations], strict=True):
                assert group.prompt_tokens == list(ids)
            said = [sampled for group in groups for sampled in group.completions]
            seconds["wait"] += time.perf_counter() - started
            return prompts, [s.tokens for s in said], [[[logp] for logp in s.logps] for s in said], None

    class Clock(TrainerCallback):
        """Steps are timed from end to end; what is neither waiting nor sync is the update."""

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            now = time.perf_counter()
            if state.global_step > 1:
                step = now - self.last
                steps.append({"step": step, **seconds, "update": step - seconds["wait"] - seconds["sync"]})
            self.last = now
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
    config_zero = json.loads((Path(__file__).parents[1] / "fer/training/deepspeed/zero2.json").read_text())
    config_zero.pop("optimizer")
    trainer = GRPOTrainer(
        model=AutoModelForMultimodalLM.from_pretrained(root / "model", dtype=torch.float32),
        reward_funcs=[lambda completions, **others: [float(len(c[0]["content"]) % 2) for c in completions]],
        args=GRPOConfig(
            output_dir=str(root / "trl"),
            per_device_train_batch_size=config.prompts // 2 * config.group_size,
            num_generations=config.group_size,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            max_completion_length=config.completion_tokens,
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
            deepspeed=config_zero | {"zero_allow_untested_optimizer": True},
            accelerator_config={"use_configured_state": True},
        ),
        train_dataset=data,
        processing_class=processor,
        callbacks=[Clock()],
    )
    for name, parameter in trainer.model.named_parameters():
        if ".visual." in name and "merger" not in name:
            parameter.requires_grad_(False)
    trainer.use_vllm, trainer._last_loaded_step = True, -1
    trainer.vllm_generation = Ours(trainer)
    trainer.train()
    if worker.is_rank_zero:
        Path(settings["out"]).write_text(json.dumps(steps))


if __name__ == "__main__":
    main(parse(GrpoBenchmark, sys.argv[1:], "benchmark"))
