"""Models with random weights in the shapes of Qwen2.5-VL, and questions about rendered faces; nothing is downloaded."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import Machine

IMAGE_SIZE = 224
"""On a GPU, as in the recipes."""


@dataclass(frozen=True)
class Shape:
    """Sizes of the language model and of the image encoder (``vision_...``)."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    vision_hidden: int
    vision_mlp: int
    vision_layers: int
    vision_heads: int
    full_attention: tuple[int, ...]
    """Layers of the image encoder whose attention is not limited to windows."""
    tied: bool = False
    """Whether input and output embeddings are the same weights."""


# The published configs of Qwen2.5-VL-3B-Instruct and Qwen2.5-VL-7B-Instruct; the tiny one is for CPUs.
QWEN_3B = Shape(2048, 11008, 36, 16, 2, 151_936, 1280, 3420, 32, 16, (7, 15, 23, 31), tied=True)
QWEN_7B = Shape(3584, 18944, 28, 28, 4, 152_064, 1280, 3420, 32, 16, (7, 15, 23, 31))
TINY = Shape(64, 128, 2, 2, 1, 2048, 32, 64, 2, 2, (1,))


def shaped_config(shape: Shape, tiny: str) -> Any:
    """The config of a Qwen2.5-VL of this shape; ``tiny``: the folder of the tiny one, for everything else."""
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(tiny)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = shape.hidden, shape.mlp, shape.layers
    text.num_attention_heads, text.num_key_value_heads = shape.heads, shape.kv_heads
    text.vocab_size, text.layer_types = shape.vocabulary, ["full_attention"] * shape.layers
    half = shape.hidden // shape.heads // 2  # rotary frequencies: a quarter for time, the rest for height and width
    text.rope_parameters = text.rope_parameters | {"mrope_section": [half // 4, half * 3 // 8, half * 3 // 8]}
    vision.hidden_size, vision.intermediate_size, vision.depth = (
        shape.vision_hidden, shape.vision_mlp, shape.vision_layers,
    )  # fmt: skip
    vision.num_heads, vision.out_hidden_size = shape.vision_heads, shape.hidden
    vision.fullatt_block_indexes = list(shape.full_attention)
    config.tie_word_embeddings = text.tie_word_embeddings = shape.tied
    return config


def make_model(shape: Shape, machine: Machine, scratch: Path) -> Path:
    """The folder of a model with random weights (bf16) and the tiny model's processor."""
    import torch
    from transformers import AutoModelForMultimodalLM

    from fer.vlm.model import load_processor
    from fer.vlm.tiny import build_tiny

    tiny = str(build_tiny("qwen2.5-vl", scratch / "tiny"))
    folder = scratch / "model"
    torch.manual_seed(0)
    with machine.torch_device:
        model = AutoModelForMultimodalLM.from_config(shaped_config(shape, tiny), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    load_processor(tiny).save_pretrained(folder)
    del model
    if machine.gpus:
        torch.cuda.empty_cache()
    return folder


def make_questions(kind: str, machine: Machine, scratch: Path, rows: int) -> Path:
    """A file of questions (`fer questions --kind`) about rendered faces, whose paths are under ``scratch``."""
    from fer.data.synthetic import write_faces
    from fer.data.vqa.build import BUILDERS, load_faces, write_jsonl
    from fer.data.vqa.options import QuestionsConfig

    faces, file = scratch / "faces", scratch / f"{kind}.jsonl"
    if not faces.exists():
        write_faces(faces, per_class=16 if machine.gpus else 4, size=IMAGE_SIZE if machine.gpus else 48)
    options = QuestionsConfig(data=str(faces), out=str(file), split="all", val_split=0)
    space, found = load_faces(options)
    questions = [BUILDERS[kind](row, space) for row in found]
    repeated = (questions[number % len(questions)] for number in range(rows))
    write_jsonl(repeated, str(file))
    return file


def last_metrics(run: Path, names: dict[str, str], skip: int) -> dict[str, float]:
    """Medians of a run's metrics over its steps, without the first ``skip``; ``names``: figure to metric."""

    from mlflow.tracking import MlflowClient

    record = json.loads((run / "run.json").read_text())
    client = MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    figures = {}
    for figure, metric in names.items():
        points = [point.value for point in client.get_metric_history(record["mlflow_run_id"], metric)]
        if points[skip:]:
            figures[figure] = statistics.median(points[skip:])
    return figures
