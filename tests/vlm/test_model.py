from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fer.errors import UserError
from fer.storage import upload_folder
from fer.tracking import TrackingOptions
from fer.vlm.model import for_workers, load_config, load_model, load_processor, part_of, resolve_vlm, set_trainable
from fer.vlm.options import LoraOptions, VlmModelOptions
from tests.fixtures.object_store import BUCKET, ObjectStore

FP32 = VlmModelOptions(precision="fp32")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.visual.blocks.0.attn.qkv", "vision"),
        ("model.visual.merger.mlp.0", "projector"),
        ("model.language_model.layers.0.self_attn.q_proj", "language"),
        ("lm_head", "language"),
        ("model.vision_model.encoder.layers.0.mlp.fc1", "vision"),
        ("model.connector.modality_projection.proj", "projector"),
        ("model.text_model.layers.1.mlp.up_proj", "language"),
        ("model.vision_tower.encoder.layers.3", "vision"),
        ("model.multi_modal_projector.linear_1", "projector"),
        ("base_model.model.model.visual.blocks.0.attn.qkv.lora_A.default", "vision"),
    ],
)
def test_parts_of_the_known_architectures(name: str, part: str) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize("parts", [["vision"], ["projector"], ["language"], ["projector", "language"]])
def test_only_the_selected_parts_are_trainable(tiny_model: str, parts: list[str]) -> None:
    options = VlmModelOptions(precision="fp32", train=parts)
    model = set_trainable(load_model(tiny_model, options), options, LoraOptions())
    trainable = {part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {part_of(name) for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert trainable == set(parts)
    assert not trainable & frozen


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_only_adapters_of_the_selected_parts_are_trainable(tiny_model: str, kind: str) -> None:
    options = VlmModelOptions(precision="fp32", train=["language"])
    model = set_trainable(load_model(tiny_model, options), options, LoraOptions(lora=kind, lora_rank=4))
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all("lora_" in name and part_of(name) == "language" for name in trainable)
    assert not any("lm_head" in name for name in trainable)


def test_an_unknown_model_is_a_one_line_error_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tiny:qwen2\.5-vl") as caught:
        load_processor("nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"no tiny model .* tiny:smolvlm"):
        resolve_vlm("tiny:gpt", TrackingOptions(storage=str(tmp_path)))
    with pytest.raises(UserError, match="can't be loaded"):
        load_model(str(tmp_path), FP32)


def test_a_tiny_model_is_created_once_and_deterministically(tmp_path: Path, tiny_models: Path) -> None:
    folder = resolve_vlm("tiny:qwen2.5-vl", TrackingOptions(storage=str(tmp_path)))
    assert resolve_vlm("tiny:qwen2.5-vl", TrackingOptions(storage=str(tmp_path))) == folder
    one, other = (load_model(str(path), FP32).state_dict() for path in (folder, tiny_models / "qwen2.5-vl"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_host_gets_the_model_by_its_name_from_the_storage(
    tmp_path: Path, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fer.storage.CACHE", tmp_path / "cache")
    tracking = TrackingOptions(storage=f"s3://{BUCKET}/runs")
    folder = resolve_vlm("tiny:smolvlm", tracking)
    assert for_workers("tiny:smolvlm", folder) == "tiny:smolvlm"
    upload_folder(Path(folder), f"s3://{BUCKET}/mine")
    again = resolve_vlm(for_workers(f"s3://{BUCKET}/mine", folder), tracking)
    assert again != folder
    assert (Path(again) / "config.json").read_text() == (Path(folder) / "config.json").read_text()
    assert for_workers(str(tmp_path), folder) == folder, "every host has to see this folder"
    with pytest.raises(UserError, match="no model at s3://bucket/nowhere"):
        resolve_vlm("s3://bucket/nowhere", tracking)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"is an adapter: merge it into its model with `fer merge --adapter"):
        load_config(str(tmp_path))
