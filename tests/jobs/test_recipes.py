"""The recipes of vision-language models: UniFER's follow its published scripts, and Ferry's say where they differ."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer.data.images import encode_png
from fer.data.vqa.prepare import open_questions
from fer.grpo.options import GrpoConfig
from fer.grpo.rewards import RewardInput, RewardScorer
from fer.options import parse
from fer.vlm.chat import ChatFormat
from fer.vlm.model import load_processor
from fer.vlm.options import SftConfig
from jobs.commands import RECIPES

# run_sft_fer.sh, sft_fer.py and TRL 0.14's defaults; run_grpo_vllm.sh, grpo.py and vllm_grpo_trainer_modified.py.
UNIFER_SFT: dict[str, Any] = {
    "workers": 4, "batch_size": 1, "grad_accum_steps": 4, "epochs": 2, "lr": 2e-5, "scheduler": "cosine", "warmup": 0,
    "weight_decay": 0, "clip_grad": 5, "precision": "bf16", "deepspeed": "zero2", "grad_checkpointing": True,
    "image_size": 224, "min_pixels": None, "max_pixels": None, "system_prompt": "", "loss_on": "all", "val_split": 0,
    "bucket_batches": 1, "train": ["vision", "projector", "language"], "lora": "off", "checkpoint_every": 20000,
    "save_only_model": True,
}  # fmt: skip
UNIFER_GRPO: dict[str, Any] = {
    "workers": 7, "engines": 1, "prompts_per_step": 28, "num_generations": 8, "batch_size": 8, "epochs": 1, "lr": 1e-6,
    "scheduler": "cosine", "warmup": 0, "weight_decay": 0.01, "clip_grad": 5, "precision": "bf16", "deepspeed": "zero3",
    "grad_checkpointing": True, "attention": "flash_attention_2", "image_size": 224, "min_pixels": None,
    "max_pixels": None, "max_prompt_tokens": 4096, "max_new_tokens": 1024, "temperature": 1, "loss": "grpo",
    "beta": 0.04, "importance_sampling_cap": 0, "num_iterations": 1, "dynamic_sampling_batches": 0, "async_level": 0,
    "rewards": {"strict": 1, "format": 1}, "overlong_buffer": 0, "val_split": 0, "gpu_memory_utilization": 0.8,
    "train": ["vision", "projector", "language"], "lora": "off", "checkpoint_every": 1000, "save_total_limit": 3,
    "save_only_model": True,
}  # fmt: skip


def recipe(job: str, name: str, data: str = "x") -> Any:
    config_class: Any = {"sft": SftConfig, "grpo": GrpoConfig}[job]
    return parse(config_class, ["--config", name, "--data", data], job, RECIPES / job)


@pytest.mark.parametrize(
    ("job", "name", "published"), [("sft", "unifer-sft-7b", UNIFER_SFT), ("grpo", "unifer-grpo-7b", UNIFER_GRPO)]
)
def test_unifer_s_recipes_have_the_published_values(job: str, name: str, published: dict[str, Any]) -> None:
    config = recipe(job, name).model_dump()
    assert {option: config[option] for option in published} == published


@pytest.mark.parametrize("job", ["sft", "grpo"])
def test_each_difference_of_ferry_s_recipes_is_explained(job: str) -> None:
    unifer, ferry = (recipe(job, f"{author}-{job}-7b").model_dump() for author in ("unifer", "ferry"))
    different = {option for option in ferry if ferry[option] != unifer[option]}
    lines = (RECIPES / job / f"ferry-{job}-7b.yaml").read_text().splitlines()
    explained = {found[1] for line in lines if (found := re.match(r"(\w+):[^#]*#", line))}
    # Set together with an option that has a comment, or by leaving the published one out.
    together = {
        "grad_accum_steps",
        "system_prompt",
        "eval_steps",
        "checkpoint_every",
        "save_total_limit",
        "save_only_model",
    }
    assert different - explained <= together
    assert different


@pytest.mark.parametrize("name", ["unifer", "ferry"])
@pytest.mark.parametrize("job", ["sft", "grpo"])
def test_a_small_face_has_64_image_tokens(tiny_models: Path, job: str, name: str) -> None:
    """At 224x224, as in the scripts. Within their limits of pixels, 48x48 pixels would have 4."""
    config = recipe(job, f"{name}-{job}-7b")
    processor = load_processor(str(tiny_models / "qwen2.5-vl"))
    chat = ChatFormat(processor, config, max_tokens=512)
    image = chat.decode_image(encode_png(np.zeros((48, 48, 3), np.uint8)))
    prompt = "<|vision_start|><|image_pad|><|vision_end|>"
    ids = chat.collate_prompts([prompt], [image])["input_ids"]
    assert image.shape == (224, 224, 3)
    assert (ids == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum() == 64


@pytest.mark.parametrize(("job", "held_out"), [("sft", False), ("grpo", False), ("ferry-sft", True)])
def test_unifer_trains_on_every_row(
    questions_file: Path, face_folder: Path, tmp_path: Path, job: str, held_out: bool
) -> None:
    name = {"sft": "unifer-sft-7b", "grpo": "unifer-grpo-7b", "ferry-sft": "ferry-sft-7b"}[job]
    options = recipe(job.removeprefix("ferry-"), name, str(questions_file))
    options = options.model_copy(update={"image_root": str(face_folder)})
    splits = open_questions(options, cache=str(tmp_path)).manifest.splits
    rows = len(questions_file.read_text().splitlines())
    assert (splits["train"].rows < rows) == held_out
    assert ("val" in splits) == held_out


def test_unifer_s_accuracy_reads_the_whole_text_without_tags() -> None:
    strict, tolerant = (RewardScorer(recipe("grpo", f"{name}-grpo-7b").rewards) for name in ("unifer", "ferry"))
    for text, expected in {
        "happiness": (1, 0),
        "<answer>Happy</answer>": (0, 1),
        "<think>a</think> <answer>happiness</answer>": (2, 2),
    }.items():
        completion = RewardInput(text, "happiness", 5, 100)
        assert (strict(completion).total, tolerant(completion).total) == expected, json.dumps(text)
