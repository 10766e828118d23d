"""Does `fer grpo` raise the reward? A tiny model that half knows the form of an answer learns to keep to it.

The images are plates of seven colours, one for each label. The answers that the model first imitates, for a while, name
labels at random. Then the form alone is rewarded. Several seeds; the curves are drawn as one picture.

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
    """Train on plates of colour with several seeds, and draw the rewards."""

    out: str = Field("benchmark-grpo", description="Folder for data, runs and the picture")
    per_label: int = Field(64, ge=8, description="Plates of each colour")
    seeds: int = Field(3, ge=1, description="Runs of reinforcement learning, each with its own seed")
    epochs: int = Field(2, ge=1, description="Their passes over the plates")
    async_depth: int = Field(0, ge=0, le=1, description="Batches sampled ahead")


def main(config: CurveBenchmark) -> None:
    from cluster.local import connect
    from fer.grpo.plots import draw

    connect(cpus=4)  # for the largest of the jobs
    root = Path(config.out).absolute()
    teach_form(root, config.per_label)
    histories = {}
    for seed in range(config.seeds):
        histories[f"seed {seed}"] = history = reinforce(root, seed, config)
        first, last = (statistics.fmean(entry["reward"] for entry in ends) for ends in (history[:10], history[-10:]))
        print(f"seed {seed}: reward {first:.3f} in the first ten steps, {last:.3f} in the last ten", flush=True)
    draw(histories, root / "curves.png")
    print(f"Curves: {root / 'curves.png'}")


def write_plates(folder: Path, per_label: int, size: int = 56) -> None:
    """Plates of colour with some noise, in a folder for each label."""
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
    """``sft.jsonl`` with the right form and random labels, and ``grpo.jsonl`` with the right labels, about plates."""
    import numpy as np

    from fer.data.vqa.prompts import ferbench_prompt, format_response

    write_plates(root / "plates", per_label)
    random = np.random.default_rng(1)
    sft, grpo = [], []
    for label in COLOURS:
        for file in sorted((root / "plates" / label).iterdir()):
            path, asked = f"plates/{label}/{file.name}", ferbench_prompt(COLOURS)
            guess = str(random.choice(list(COLOURS)))
            answer = format_response(f"The face looks like {guess}.", guess)
            sft.append({"image_path": path, "question": asked, "response": answer})
            grpo.append({"image_path": path, "problem": asked, "solution": f"<answer>{label}</answer>"})
    for name, rows in (("sft", sft), ("grpo", grpo)):
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def teach_form(root: Path, per_label: int) -> None:
    """The model that reinforcement begins with, in ``runs/form/model``."""
    from jobs.__main__ import run_job

    write_questions(root, per_label)
    where = f"--data {root / 'sft.jsonl'} --out-dir {root / 'runs'} --name form"
    how = "--config tiny-cpu --epochs 6 --eval-generations 0 --checkpoint-every 0"
    assert run_job("sft", f"{where} {how}".split()) == 0


def reinforce(root: Path, seed: int, config: CurveBenchmark) -> list[dict[str, float]]:
    """One run of `fer grpo`; the figures of its steps."""
    from jobs.__main__ import run_job

    arguments = [
        *("--config", "tiny-cpu", "--model", f"{root / 'runs/form'}", "--data", f"{root / 'grpo.jsonl'}"),
        *("--val-split", "0", "--out-dir", f"{root / 'runs'}", "--name", f"seed-{seed}", "--seed", str(seed)),
        *("--epochs", str(config.epochs), "--async-depth", str(config.async_depth), "--rewards", '{"format": 1}'),
    ]
    assert run_job("grpo", arguments) == 0
    return json.loads((root / "runs" / f"seed-{seed}" / "history.json").read_text())


if __name__ == "__main__":
    main(parse(CurveBenchmark, sys.argv[1:], "benchmark"))
