"""Throughput of `fer ferbench run` compared with one question at a time, as in UniFER's inference script.

    python -m benchmarks.ferbench --questions ferplus_qa.json --image-root ferplus_test_images.zip

All use the same model, questions and maximum length on the same machine: transformers' greedy `generate` in fp32, one
question after the other, and vLLM on Ray Data, with one engine that has all cores, and with two that share them. They
take turns, round by round. Throughput excludes start-up; the total time is printed beside it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic import Field

from fer.options import Options, parse


class FerbenchBenchmark(Options):
    """Measure batch inference against one question at a time."""

    questions: str = Field(description="File of questions in FERBench's form")
    image_root: str = Field(description="Folder or .zip of their images")
    model: str = Field("tiny:qwen2.5-vl", description="Vision-language model")
    rows: int = Field(512, ge=8, description="Questions for batch inference")
    single_rows: int = Field(48, ge=4, description="Questions for inference one at a time")
    max_new_tokens: int = Field(64, ge=1, description="Maximum length of a response in tokens")
    rounds: int = Field(3, ge=1, description="Runs of each, in turn")


def main(config: FerbenchBenchmark) -> None:
    questions = json.loads(Path(config.questions).read_text())
    contenders: dict[str, Callable[[FerbenchBenchmark, Path, Path], tuple[int, float, int]]] = {
        "one at a time, transformers, fp32": one_at_a_time,
        "fer ferbench run": partial(in_batches, workers=1),
        "fer ferbench run --workers 2": partial(in_batches, workers=2),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(config.rounds):
        for name, run in contenders.items():
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch) / "questions.json"
                file.write_text(json.dumps(questions[: config.rows]))
                started = time.perf_counter()
                responses, seconds, tokens = run(config, file, Path(scratch))
                total = time.perf_counter() - started
            rates[name].append(responses / seconds)
            print(
                f"{name:<36}{responses:6} responses in {seconds:6.1f} s: {responses / seconds:7.2f}/s, "
                f"{tokens / responses:4.0f} tokens each; {total:.0f} s with start-up",
                flush=True,
            )
    for name, values in rates.items():
        print(f"{name:<36}{statistics.median(values):7.2f}/s  ({min(values):.2f} to {max(values):.2f})")
    single, *batches = (statistics.median(values) for values in rates.values())
    print("ratios", *(f"{batch / single:.1f}" for batch in batches))


def one_at_a_time(config: FerbenchBenchmark, file: Path, scratch: Path) -> tuple[int, float, int]:
    """Responses, seconds and tokens, measured in a separate process."""
    program = "import sys; from benchmarks.ferbench import generate_one_by_one; generate_one_by_one(*sys.argv[1:])"
    arguments = [
        config.model,
        str(file),
        config.image_root,
        str(config.single_rows),
        str(config.max_new_tokens),
        str(scratch),
    ]
    done = subprocess.run([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    responses, seconds, tokens = json.loads(done.stdout.splitlines()[-1])
    return responses, seconds, tokens


def generate_one_by_one(
    model: str, file: str, image_root: str, single_rows: str, max_new_tokens: str, scratch: str
) -> None:
    """The loop of UniFER's script: image at 224x224, chat template, greedy generation, decoding."""
    import io

    import torch
    from PIL import Image

    from fer.data.vqa.questions import ImageRoot, Turn
    from fer.tracking import TrackingOptions
    from fer.vlm.chat import render_prompt
    from fer.vlm.model import load_model, load_processor, resolve_vlm
    from fer.vlm.options import VlmModelOptions

    path = resolve_vlm(model, TrackingOptions(storage=scratch))
    processor = load_processor(path)
    network = load_model(path, VlmModelOptions(precision="fp32")).eval()
    if torch.cuda.is_available():
        network = network.cuda()
    images = ImageRoot(image_root)
    rows = json.loads(Path(file).read_text())[: int(single_rows) + 2]
    tokens = 0
    for number, row in enumerate(rows):
        if number == 2:  # the first two are a warm-up
            started, tokens = time.perf_counter(), 0
        image = Image.open(io.BytesIO(images.read(row["image_path"]))).convert("RGB").resize((224, 224))
        inputs = processor(
            text=[render_prompt(processor, [Turn(row["prompt"])])], images=[[image]], return_tensors="pt"
        )
        inputs = {name: value.to(network.device) for name, value in inputs.items()}
        with torch.no_grad():
            ids = network.generate(**inputs, do_sample=False, max_new_tokens=int(max_new_tokens), use_cache=True)  # type: ignore[operator]
        new = ids[0, inputs["input_ids"].shape[1] :]
        processor.decode(new, skip_special_tokens=True)
        tokens += len(new)
    print(json.dumps([len(rows) - 2, time.perf_counter() - started, tokens]))


def in_batches(config: FerbenchBenchmark, file: Path, scratch: Path, workers: int) -> tuple[int, float, int]:
    """Run the command; responses, seconds from the first engine's start to the last response, and tokens."""
    out = scratch / "out"
    command = [sys.executable, "-m", "jobs.ferbench", "run", config.model, "--name", "model", "--out", str(out)]
    command += [
        "--questions",
        str(file),
        "--image-root",
        config.image_root,
        "--max-new-tokens",
        str(config.max_new_tokens),
        "--workers",
        str(workers),
    ]
    subprocess.run([*command, "--storage", str(scratch)], check=True, stdout=subprocess.DEVNULL)
    usage = json.loads((out / "model" / "run.json").read_text())["usage"]
    journals = [
        [json.loads(line) for line in file.read_text().splitlines()] for file in out.glob("model/journal/*.jsonl")
    ]
    seconds = max(lines[-1]["time"] for lines in journals) - min(lines[0]["started"] for lines in journals)
    return usage["responses"], seconds, usage["completion_tokens"]


if __name__ == "__main__":
    main(parse(FerbenchBenchmark, sys.argv[1:], "benchmarks.ferbench"))
