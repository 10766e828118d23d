"""Reward curves of `fer grpo`: a tiny model that knows the answer format only in part learns to keep to it.

The images are plain plates of seven colours, one for each label. The model is first fine-tuned for a few epochs on
responses with random labels; then the format alone is rewarded. The curves of several seeds are plotted together.

    python -m benchmarks.grpo_curve --out /tmp/grpo
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from pydantic import Field

from fer.options import Options, parse

COLOURS = {
    "anger": (220, 30, 30),
    "disgust": (30, 160, 30),
    "fear": (130, 30, 180),
    "happiness": (250, 220, 40),
    "neutral": (140, 140, 140),
    "sadness": (40, 60, 220),
    "surprise": (250, 140, 20),
}


class CurveBenchmark(Options):
    """Train on images of plain colours with several seeds, and plot the rewards."""

    out: str = Field("benchmark-grpo", description="Folder for data, runs and the plot")
    per_label: int = Field(64, ge=8, description="Images of each colour")
    seeds: int = Field(3, ge=1, description="GRPO runs, each with its own seed")
    epochs: int = Field(2, ge=1, description="Epochs of each run")
    async_level: int = Field(0, ge=0, le=1, description="As in `fer grpo`")


def main(config: CurveBenchmark) -> None:
    from cluster.local import connect
    from fer.grpo.plots import FILE_NAME, plot_histories

    connect(cpus=4)  # for the largest job
    root = Path(config.out).absolute()
    train_format(root, config.per_label)
    histories = {}
    for seed in range(config.seeds):
        histories[f"seed {seed}"] = history = train_grpo(root, seed, config)
        first, last = (
            statistics.fmean(entry["reward/mean"] for entry in ends) for ends in (history[:10], history[-10:])
        )
        print(f"seed {seed}: reward {first:.3f} in the first ten steps, {last:.3f} in the last ten", flush=True)
    plot_histories(histories, root / FILE_NAME)
    print(f"Curves: {root / FILE_NAME}")


def write_plates(folder: Path, per_label: int, size: int = 56) -> None:
    """Images of plain colours with some noise, in a folder for each label."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(per_label):
            noise = random.normal(0, 12, (size, size, 3)) + random.normal(0, 8, 3)
            plate = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(plate).save(folder / label / f"{label}-{number:03d}.png")


def write_questions(root: Path, per_label: int) -> None:
    """``sft.jsonl`` in the answer format with random labels, and ``grpo.jsonl`` with the right labels."""
    import numpy as np

    from fer.data.vqa.prompts import ferbench_prompt, format_response

    write_plates(root / "plates", per_label)
    random = np.random.default_rng(1)
    sft, grpo = [], []
    for label in COLOURS:
        for file in sorted((root / "plates" / label).iterdir()):
            path, question = f"plates/{label}/{file.name}", ferbench_prompt(COLOURS)
            random_label = str(random.choice(list(COLOURS)))
            response = format_response(f"The face looks like {random_label}.", random_label)
            sft.append({"image_path": path, "question": question, "response": response})
            grpo.append({"image_path": path, "problem": question, "solution": f"<answer>{label}</answer>"})
    for name, rows in (("sft", sft), ("grpo", grpo)):
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def train_format(root: Path, per_label: int) -> None:
    """Make the initial model of GRPO, in ``runs/format/model``."""
    from jobs.__main__ import run_job

    write_questions(root, per_label)
    paths = f"--data {root / 'sft.jsonl'} --storage {root / 'runs'} --name format"
    options = "--config tiny-cpu --epochs 6 --eval-generations 0 --checkpoint-every 0"
    assert run_job("sft", f"{paths} {options}".split()) == 0


def train_grpo(root: Path, seed: int, config: CurveBenchmark) -> list[dict[str, float]]:
    """Run `fer grpo`; the metrics of its steps."""
    from jobs.__main__ import run_job

    arguments = [
        *("--config", "tiny-cpu", "--model", f"{root / 'runs/format'}", "--data", f"{root / 'grpo.jsonl'}"),
        *("--val-split", "0", "--storage", f"{root / 'runs'}", "--name", f"seed-{seed}", "--seed", str(seed)),
        *("--epochs", str(config.epochs), "--async-level", str(config.async_level), "--rewards", '{"format": 1}'),
    ]
    assert run_job("grpo", arguments) == 0
    return json.loads((root / "runs" / f"seed-{seed}" / "history.json").read_text())


if __name__ == "__main__":
    main(parse(CurveBenchmark, sys.argv[1:], "benchmark"))
