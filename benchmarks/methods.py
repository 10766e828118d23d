"""Training methods on FER2013 at equal CPU time: what helps, and what does not.

    python -m benchmarks.methods --data fer2013.zip --epochs 20

Trains the recipe `fer2013-cpu` with each method from scratch, in this process, and evaluates it once on the test
images. A method has the CPU time of the recipe's epochs, and as many epochs as fit into it: what an image costs with
either is measured first, on a few batches, taking turns. The learning rate follows the epochs. CPU time is little
disturbed by other work, and the epochs do not depend on the machine. Results are appended to a file; the same command
continues after what it has.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from benchmarks.without_ray import in_process, make_trainer
from fer.options import Options, parse

if TYPE_CHECKING:
    from fer.classifier.options import TrainConfig
    from fer.data.manifest import ShardedDataset

HALF = {"channels": [16, 32, 64, 128], "stem_width": 8}

METHODS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "--opt adamw --batch-size 64 --lr 0.001": {"opt": "adamw", "batch_size": 64, "lr": 1e-3},
    "a stem of one 7x7 convolution": {"model_kwargs": {"stem_type": ""}},
    "--ema 0.999": {"ema": 0.999},
    "--mixup 0.2": {"mixup": 0.2},
    "--loss focal": {"loss": "focal"},
    "--loss bootstrap-soft": {"loss": "bootstrap-soft"},
    "--loss bootstrap-hard": {"loss": "bootstrap-hard"},
    "--r-drop 1": {"r_drop": 1.0, "model_kwargs": {"drop_rate": 0.1}},
    "--sam 0.05": {"sam": 0.05},
    "--teacher (the recipe's result)": {"teacher": ["recipe"]},
    "half the channels": {"model_kwargs": HALF},
    "half the channels, --prune the recipe's result": {"model_kwargs": HALF, "prune": "recipe"},
    "a tenth of the labels": {"part": "tenth"},
    "a tenth, --ema 0.999": {"part": "tenth", "ema": 0.999},
    "a tenth, --unlabelled the rest": {"part": "tenth", "ema": 0.999, "unlabelled": "rest"},
}
"""Options of each. ``part`` and ``unlabelled`` are keys of `prepare_parts`; ``teacher`` and ``prune``: the recipe's."""

CALIBRATION_IMAGES = 1536


class MethodsBenchmark(Options):
    """Compare training methods at equal CPU time."""

    data: str = Field(description="FER2013 as a zip of images in train/CLASS and test/CLASS")
    epochs: int = Field(20, ge=1, description="Epochs of the recipe; a method has their CPU time")
    methods: list[str] = Field([], description="Names of methods; none: all")
    seeds: list[int] = Field([0], description="Seeds of each method")
    img_size: int = Field(80, ge=32, description="Side of the input, in pixels")
    threads: int = Field(1, ge=1, description="Compute threads")
    out: str = Field("build/methods", description="Folder of the shards, models and results")


def main(options: MethodsBenchmark) -> None:
    out = Path(options.out)
    results = out / f"{options.epochs}epochs-{options.img_size}px.jsonl"
    parts = prepare_parts(options, out)
    for seed in options.seeds:
        for name in options.methods or METHODS:
            if any(known["method"] == name and known["seed"] == seed for known in read(results)):
                continue
            found = run(options, name, seed, parts, out)
            with results.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(found, flush=True)
    print(table(read(results)))


def prepare_parts(options: MethodsBenchmark, out: Path) -> dict[str, ShardedDataset]:
    """FER2013; a random tenth of its training images, and the rest of them; and a few batches. Tested on all of its
    test images."""
    import random
    import zipfile

    from fer.data.options import PrepareOptions
    from fer.data.prepare import prepare

    with zipfile.ZipFile(options.data) as archive:
        if not (out / "images").exists():
            archive.extractall(out / "images")
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
    train = [name for name in names if name.startswith("train/")]
    test = [name for name in names if name.startswith("test/")]
    random.Random(0).shuffle(train)
    lists = {
        "all": train + test,
        "tenth": train[: len(train) // 10] + test,
        "rest": train[len(train) // 10 :] + test,
        "few": train[:CALIBRATION_IMAGES] + test[:64],
    }
    for part, chosen in lists.items():
        for name in chosen:
            link = out / part / name
            if not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.hardlink_to(out / "images" / name)
    return {
        part: prepare(PrepareOptions(data=str(out / part), out=str(out / "shards" / part), val_split=0))
        for part in lists
    }


def run(
    options: MethodsBenchmark, name: str, seed: int, parts: Mapping[str, ShardedDataset], out: Path
) -> dict[str, Any]:
    """Train with a method for the CPU time of the recipe's epochs, and evaluate."""
    from fer.classifier.prune import start_pruned

    chosen = dict(METHODS[name])
    dataset = parts[chosen.pop("part", "all")]
    unlabelled = parts[chosen["unlabelled"]].root if "unlabelled" in chosen else None
    result = str(out / "models" / f"recipe-{seed}")
    teachers = [result] if "teacher" in chosen else []
    if "prune" in chosen:
        chosen["prune"] = result
    others = {"teachers": teachers, "unlabelled": unlabelled}
    cost = relative_cost(config_of(options, chosen, seed, 2), config_of(options, {}, seed, 2), parts["few"], others)
    images = options.epochs * parts["all"].split("train").rows / cost
    epochs = max(1, round(images / dataset.split("train").rows))
    print(f"{name}: an image takes {cost:.2f} times the recipe's CPU time; {epochs} epochs", flush=True)
    started = time.process_time()
    with in_process():
        config = config_of(options, chosen, seed, epochs)
        trainer = make_trainer(config, dataset, lambda *_, **__: None, **others)
        if config.prune:
            start_pruned(trainer.model_state.raw, config)
        trainer.has_validation = False  # evaluated once, at the end
        trainer.fit()
        minutes = (time.process_time() - started) / 60
        metrics = trainer.validate()
        trainer.model_state.save(out / "models" / f"{name}-{seed}".replace(" ", ""), trainer.state)
    return {
        "method": name,
        "seed": seed,
        "epochs": epochs,
        "cpu_minutes": round(minutes, 2),
        "accuracy": round(metrics["val_accuracy"], 4),
        "loss": round(metrics["val_loss"], 4),
        "images": sum(dataset.split("val").counts.values()),
    }


def config_of(options: MethodsBenchmark, chosen: Mapping[str, Any], seed: int, epochs: int) -> TrainConfig:
    """The recipe with a method."""
    import yaml

    from fer.classifier.options import TrainConfig

    recipe = yaml.safe_load(Path("jobs/recipes/train/fer2013-cpu.yaml").read_text())
    recipe |= {"data": "d", "img_size": options.img_size, "threads": options.threads, "device": "cpu"}
    network = recipe["model_kwargs"] | chosen.get("model_kwargs", {})
    return TrainConfig(**recipe | dict(chosen) | {"model_kwargs": network, "seed": seed, "epochs": epochs})


def relative_cost(config: TrainConfig, recipe: TrainConfig, few: ShardedDataset, others: Mapping[str, Any]) -> float:
    """The CPU time of an image in training, in that of the recipe: the faster of two times each, taking turns."""
    if config == recipe:
        return 1.0
    times = [(seconds_of_epoch(config, few, others), seconds_of_epoch(recipe, few, {})) for _ in range(2)]
    ours, theirs = zip(*times, strict=True)
    return min(ours) / min(theirs)


def seconds_of_epoch(config: TrainConfig, few: ShardedDataset, others: Mapping[str, Any]) -> float:
    """CPU seconds of the second epoch of a few batches."""
    clock: list[float] = []
    with in_process():
        trainer = make_trainer(config, few, lambda *_, **__: clock.append(time.process_time()), **others)
        trainer.has_validation = False
        trainer.fit()
        return clock[1] - clock[0]


def read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def table(found: list[dict[str, Any]]) -> str:
    """A line for each method: means over the seeds, with the 95% interval of the accuracy on so many images."""
    lines = ["| method | seeds | epochs | CPU minutes | accuracy | loss |", "|---|---|---|---|---|---|"]
    for name in METHODS:
        runs = [each for each in found if each["method"] == name]
        if runs:
            mean = {key: sum(each[key] for each in runs) / len(runs) for key in ("accuracy", "loss", "cpu_minutes")}
            error = 1.96 * math.sqrt(mean["accuracy"] * (1 - mean["accuracy"]) / runs[0]["images"])
            accuracy = f"{mean['accuracy']:.1%} ± {error:.1%}"
            cells = [name, len(runs), runs[0]["epochs"], f"{mean['cpu_minutes']:.1f}", accuracy, f"{mean['loss']:.3f}"]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(parse(MethodsBenchmark, sys.argv[1:], "benchmark"))
