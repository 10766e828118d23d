"""Throughput of supervised fine-tuning: Ferry on one and two workers, and TRL's SFTTrainer, on the same model and rows.

    python -m benchmarks.sft

They take turns. Each throughput is the median of tokens per second, without padding, over windows of ``WINDOW`` steps
(the first two excluded), and then the median over the rounds. The lengths of the responses have a log-normal
distribution, like most text: half have more than ``--median-words`` words, one in six more than 1.65 times as many.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fer.options import Options, parse

WINDOW = 8


class ModelSizeOptions(Options):
    """Size of the random model that a benchmark trains."""

    width: int = Field(256, ge=64, multiple_of=64, description="Width of the language model")
    layers: int = Field(4, ge=1, description="Layers of the language model")
    image_size: int = Field(56, ge=28, description="Side of the images, in pixels")


class SftBenchmark(ModelSizeOptions):
    """Measure supervised fine-tuning against TRL's SFTTrainer."""

    rows: int = Field(512, ge=256, description="Training rows, for one epoch")
    batch_size: int = Field(8, ge=1, description="Rows in a batch")
    median_words: int = Field(60, ge=5, description="Median length of a response's reasoning in words")
    rounds: int = Field(3, ge=1, description="Repetitions of each measurement")
    threads: int = Field(2, ge=1, description="Compute threads of all workers together")
    precision: Literal["bf16", "fp32"] = Field("fp32", description="Data type; few CPUs compute in bf16")


def main(config: SftBenchmark) -> None:
    from cluster.local import connect

    connect(cpus=3)  # for the largest of the jobs
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_data(config, root)
        make_model(config, root / "model")
        contenders = {
            "TRL's SFTTrainer": lambda number: run_trl(config, root),
            "Ferry, one worker": lambda number: run_ferry(config, root, f"one-{number}", workers=1),
            "Ferry, one, not sorted": lambda number: run_ferry(config, root, f"plain-{number}", workers=1, buckets=1),
            "Ferry, two workers": lambda number: run_ferry(config, root, f"two-{number}", workers=2),
        }
        results: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for number in range(config.rounds):
            for name, run in contenders.items():
                results[name].append(run(number))
                print(name, results[name][-1], flush=True)
    base = statistics.median(result["tokens_per_second"] for result in results["TRL's SFTTrainer"])
    for name, rounds in results.items():
        rates = [result["tokens_per_second"] for result in rounds]
        padding = statistics.median(result["padding"] for result in rounds)
        print(
            f"{name:<26}{statistics.median(rates):9.0f} tokens/s  ({min(rates):.0f} to {max(rates):.0f})  "
            f"padding {padding:5.1%}  {statistics.median(rates) / base:.2f} x TRL"
        )


def make_data(config: SftBenchmark, root: Path) -> None:
    """Rendered faces, and questions about them with reasoning of random length."""
    import numpy as np

    from fer.data.options import PrepareOptions
    from fer.data.prepare import prepare
    from fer.data.synthetic import write_faces
    from fer.data.vqa.build import BUILDERS, load_faces, write_jsonl
    from fer.data.vqa.options import QuestionsConfig
    from fer.data.vqa.prompts import CUES, format_response

    write_faces(root / "faces", per_class=-(-config.rows // 7), size=64, seed=0)
    random = np.random.default_rng(0)
    words = " ".join(cue for cues in CUES.values() for cue in cues).split()
    questions = root / "questions.jsonl"
    space, rows = load_faces(QuestionsConfig(data=str(root / "faces"), out=str(questions), split="all", val_split=0))
    built = []
    for row, _ in zip(rows, range(config.rows), strict=False):
        length = int(random.lognormal(np.log(config.median_words), 0.5)) + 1
        reasoning = " ".join(random.choice(words, length))
        built.append(BUILDERS["sft"](row, space) | {"response": format_response(reasoning, str(row.label))})
    write_jsonl(iter(built), str(questions))
    prepare(
        PrepareOptions(
            data=str(questions), format="vqa", image_root=str(root / "faces"), out=str(root / "shards"), val_split=0
        )
    )


def make_model(config: ModelSizeOptions, folder: Path) -> None:
    """A wider and deeper variant of the tiny Qwen2.5-VL."""
    import torch
    from transformers import AutoConfig, AutoModelForMultimodalLM

    from fer.vlm.model import load_processor
    from fer.vlm.tiny import build_tiny

    tiny = str(build_tiny("qwen2.5-vl", folder.parent / "tiny"))
    wider: Any = AutoConfig.from_pretrained(tiny)
    text = wider.text_config
    text.hidden_size, text.intermediate_size = config.width, 3 * config.width
    text.num_attention_heads, text.num_key_value_heads = config.width // 32, config.width // 64
    text.num_hidden_layers = config.layers
    text.layer_types = ["full_attention"] * config.layers
    wider.vision_config.out_hidden_size = config.width
    torch.manual_seed(0)
    AutoModelForMultimodalLM.from_config(wider, dtype=torch.bfloat16).save_pretrained(folder)
    load_processor(tiny).save_pretrained(folder)


def run_ferry(config: SftBenchmark, root: Path, name: str, workers: int, buckets: int = 32) -> dict[str, float]:
    """One epoch of `fer sft`."""
    from fer.tracking import tracking_uri
    from fer.vlm.options import SftConfig
    from jobs.sft import main as fine_tune

    options = SftConfig(
        data=str(root / "shards"),
        model=str(root / "model"),
        storage=str(root / "runs"),
        name=name,
        train=["vision", "projector", "language"],
        workers=workers,
        threads=max(1, config.threads // workers),
        batch_size=config.batch_size,
        grad_accum_steps=1,
        epochs=1,
        lr=1e-4,
        image_size=config.image_size,
        precision=config.precision,
        bucket_batches=buckets,
        grad_checkpointing=False,
        eval_rows=0,
        eval_generations=0,
        log_every=WINDOW // workers,
    )
    fine_tune(options)
    record = json.loads((root / "runs" / name / "run.json").read_text())
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri(options))

    def median(metric: str) -> float:
        points = client.get_metric_history(record["mlflow_run_id"], metric)
        return statistics.median(point.value for point in points[2:])

    return {metric: median(metric) for metric in ("tokens_per_second", "padding")}


def run_trl(config: SftBenchmark, root: Path) -> dict[str, float]:
    """SFTTrainer in a separate process."""
    settings = config.model_dump() | {"root": str(root)}
    command = [sys.executable, "-m", "benchmarks.sft", "--trl-worker", json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def trl_worker(settings: dict[str, Any]) -> None:
    """One epoch of SFTTrainer; prints the metrics."""
    import datasets
    import torch
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from fer.vlm.model import load_processor

    root, size = Path(settings["root"]), settings["image_size"]
    torch.set_num_threads(settings["threads"])
    rows = [json.loads(line) for line in (root / "questions.jsonl").read_text().splitlines()]
    data = datasets.Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["question"]}],
                "completion": [{"role": "assistant", "content": row["response"]}],
                "images": [str(root / "faces" / Path(row["image_path"]).relative_to("faces"))],
            }
            for row in rows
        ]
    ).cast_column("images", datasets.Sequence(datasets.Image()))
    data = data.map(lambda row: {"images": [image.resize((size, size)) for image in row["images"]]})
    counts = {"tokens": 0, "padded_tokens": 0, "started": time.perf_counter()}
    windows: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **others):  # type: ignore[no-untyped-def]
            if state.global_step % WINDOW == 0:
                now = time.perf_counter()
                rate = counts["tokens"] / (now - counts["started"])
                windows.append((rate, 1 - counts["tokens"] / counts["padded_tokens"]))
                counts.update(tokens=0, padded_tokens=0, started=now)

    trainer = SFTTrainer(
        model=str(root / "model"),
        args=SFTConfig(
            str(root / "trl"),
            per_device_train_batch_size=settings["batch_size"],
            num_train_epochs=1,
            learning_rate=1e-4,
            bf16=settings["precision"] == "bf16",
            use_cpu=True,
            gradient_checkpointing=False,
            max_length=None,
            report_to=[],
            save_strategy="no",
            logging_steps=10_000,
            model_init_kwargs={"dtype": {"bf16": "bfloat16", "fp32": "float32"}[settings["precision"]]},
        ),
        train_dataset=data,
        processing_class=load_processor(str(root / "model")),
        callbacks=[Clock()],
    )
    collate = trainer.data_collator

    def counted(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(rows)
        counts["tokens"] += int(batch["attention_mask"].sum())
        counts["padded_tokens"] += batch["attention_mask"].numel()
        return batch

    trainer.data_collator = counted
    trainer.train()
    rate, padding = (statistics.median(values) for values in zip(*windows[2:], strict=True))
    print(json.dumps({"tokens_per_second": rate, "padding": padding}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--trl-worker"]:
        trl_worker(json.loads(sys.argv[2]))
    else:
        main(parse(SftBenchmark, sys.argv[1:], "benchmarks.sft"))
