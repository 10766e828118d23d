"""Tiny models of two architectures, and questions about rendered faces."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer.data.manifest import ShardedDataset
from fer.data.options import PrepareOptions
from fer.data.prepare import prepare
from fer.data.vqa.build import BUILDERS, faces, write_jsonl
from fer.data.vqa.options import QuestionsConfig
from fer.vlm.tiny import build_tiny

ARCHITECTURES = ("qwen2.5-vl", "smolvlm")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one tiny model of each architecture."""
    folder = tmp_path_factory.mktemp("tiny")
    for name in ARCHITECTURES:
        build_tiny(name, folder)
    return folder


@pytest.fixture(scope="session", params=ARCHITECTURES)
def tiny_model(request: pytest.FixtureRequest, tiny_models: Path) -> str:
    """A tiny model's folder, of each architecture in turn."""
    return str(tiny_models / request.param)


@pytest.fixture(scope="session")
def questions_file(face_folder: Path) -> Path:
    """SFT questions about them, with template answers."""
    out = face_folder.parent / "sft.jsonl"
    config = QuestionsConfig(data=str(face_folder), out=str(out), split="all", val_split=0)
    space, rows = faces(config)
    write_jsonl((BUILDERS["sft"](row, space) for row in rows), str(out))
    return out


@pytest.fixture(scope="session")
def question_shards(questions_file: Path, face_folder: Path) -> ShardedDataset:
    """Shards of them: about 90 rows for training, the rest for validation."""
    return prepare(
        PrepareOptions(
            data=str(questions_file),
            format="vqa",
            image_root=str(face_folder),
            out=str(face_folder.parent / "shards"),
            val_split=0.2,
        )
    )


@pytest.fixture(scope="session")
def merged_model(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that `fer merge` made of the tiny Qwen2.5-VL and an adapter with weights of its own."""
    import torch

    from fer.vlm.merge import merge_adapter
    from fer.vlm.model import load_model, load_processor, set_trainable
    from fer.vlm.options import LoraOptions, MergeConfig, VlmModelOptions

    root = tmp_path_factory.mktemp("merge")
    options = VlmModelOptions(precision="fp32")
    model = set_trainable(load_model(str(tiny_models / "qwen2.5-vl"), options), options, LoraOptions(lora="lora"))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(root / "adapter")  # type: ignore[operator]
    load_processor(str(tiny_models / "qwen2.5-vl")).save_pretrained(root / "adapter")
    return merge_adapter(MergeConfig(adapter=str(root / "adapter"), out=str(root / "merged")))


@pytest.fixture(scope="session")
def merged_engine(merged_model: Path):  # type: ignore[no-untyped-def]
    """vLLM with that model: the session's one engine."""
    from fer.inference.vllm import VllmClient

    return VllmClient(str(merged_model), max_model_len=1024, dtype="float32")
