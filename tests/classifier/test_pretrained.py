"""Pretrained weights: read once by the driver, also from a file that no worker has."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fer.classifier.model import build_model, load_model, new_spec, save_model
from fer.classifier.model_state import ModelState
from fer.classifier.options import TrainConfig
from fer.classifier.preflight import preflight_check
from fer.classifier.pretrained import fetch_pretrained, share_pretrained
from fer.data.manifest import ShardedDataset
from fer.errors import UserError


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    """A file as timm publishes them: with the classifier of another task."""
    torch.manual_seed(7)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("in_chans", [1, 3])
def test_a_file_is_read_once_for_all_workers_and_restarts(
    small_shards: Path, weights_file: Path, in_chans: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reads: list[str] = []
    load = timm.models._builder.load_state_dict

    def count(path: str) -> Any:
        reads.append(path)
        return load(path)

    monkeypatch.setattr(timm.models._builder, "load_state_dict", count)
    monkeypatch.chdir(tmp_path)
    options = {"backbone": "test_resnet", "img_size": 32, "batch_size": 16, "in_chans": in_chans, "ema": 0.9}
    config = TrainConfig(data=str(small_shards), model_kwargs={"checkpoint_path": weights_file.name}, **options)
    dataset = ShardedDataset(str(small_shards))
    spec = new_spec(config, dataset.manifest.space)
    model = preflight_check(config, spec, dataset)
    shared = share_pretrained(config, model)
    assert shared is not None
    published = load_file(weights_file)
    weights_file.unlink()
    for _ in range(3):  # two workers, one of which restarts
        state = ModelState(config, spec, torch.device("cpu"), None, steps_per_epoch=1)
        state.load_backbone(fetch_pretrained(shared))
        for each in state.models:
            for name, value in each.backbone.state_dict().items():
                if value.shape == published[name].shape:  # not the first layer of a grey model
                    assert torch.equal(value, published[name]), name
    assert reads == [weights_file.name]
    save_model(state.raw, spec, tmp_path / "model")
    load_model(tmp_path / "model")


def test_a_model_that_starts_from_random_weights_shares_none(small_shards: Path) -> None:
    config = TrainConfig(data=str(small_shards), backbone="test_resnet", img_size=32)
    model = build_model(new_spec(config, ShardedDataset(str(small_shards)).manifest.space))
    assert share_pretrained(config, model) is None


def test_a_missing_file_is_a_user_error(small_shards: Path) -> None:
    config = TrainConfig(
        data=str(small_shards), backbone="test_resnet", img_size=32, model_kwargs={"checkpoint_path": "absent.pth"}
    )
    dataset = ShardedDataset(str(small_shards))
    with pytest.raises(UserError, match=r"no weights file absent\.pth"):
        preflight_check(config, new_spec(config, dataset.manifest.space), dataset)
