"""What preflight refuses before any worker starts, with messages that say how to fix it."""

from pathlib import Path
from typing import Any

import pytest

from fer.classifier.model import new_spec
from fer.classifier.options import TrainConfig
from fer.classifier.preflight import preflight_check
from fer.data.manifest import ShardedDataset
from fer.errors import UserError


def run_check(shards: Path, **options: Any) -> None:
    config = TrainConfig(data=str(shards), **{"backbone": "test_resnet", "img_size": 32, "batch_size": 16, **options})
    dataset = ShardedDataset(str(shards))
    preflight_check(config, new_spec(config, dataset.manifest.space), dataset)


def test_valid_configs_pass(small_shards: Path) -> None:
    run_check(small_shards)
    run_check(small_shards, margin="cosface", in_chans=1)
    run_check(small_shards, r_drop=1.0, model_kwargs={"drop_rate": 0.1})
    run_check(small_shards, r_drop=1.0, model_kwargs={"drop_path_rate": 0.1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet19"}, "timm has no model 'resnet19'; similar: "),
        ({"model_kwargs": {"colour": 3}}, "--model-kwargs"),
        ({"opt": "sdg"}, "no optimizer 'sdg'"),
        ({"batch_size": 512}, "lower --batch-size or --workers"),
        ({"workers": 64}, "lower --batch-size or --workers"),
        ({"batch_size": 15, "mixup": 0.2}, "even --batch-size"),
        ({"head": "both"}, "no valence and arousal"),
        ({"soft_labels": True}, "no annotators' votes"),
        ({"r_drop": 1.0}, "--r-drop compares two passes"),
        ({"backbone": "dla34", "img_size": 48}, "change --img-size"),
    ],
)
def test_invalid_configs_are_refused(small_shards: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_check(small_shards, **options)


def test_compiling_needs_a_compiler(small_shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run_check(small_shards, compile=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"install g\+\+"):
        run_check(small_shards, compile=True)


def test_missing_pretrained_weights_say_how_to_continue(
    small_shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="--no-pretrained") as error:
        run_check(small_shards, backbone="resnet18", pretrained=True)
    assert "\n" not in str(error.value)
