"""What preflight refuses before any worker starts, with messages that say how to fix it."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer.classifier.model import build_model, new_spec, save_model
from fer.classifier.options import TrainConfig
from fer.classifier.preflight import preflight_check
from fer.data.images import encode_png
from fer.data.manifest import ShardedDataset
from fer.data.prepare import open_unlabelled
from fer.errors import UserError
from fer.training.checkpoint import TrainerState, write_state


def config_of(shards: Path, **options: Any) -> TrainConfig:
    return TrainConfig(data=str(shards), **{"backbone": "test_resnet", "img_size": 32, "batch_size": 16, **options})


def run_check(shards: Path, **options: Any) -> None:
    config = config_of(shards, **options)
    dataset = ShardedDataset(str(shards))
    preflight_check(config, new_spec(config, dataset.manifest.space), dataset)


def save_checkpoint(shards: Path, folder: Path, state: TrainerState | None, labels: Mapping[str, str] = {}) -> Path:
    """A checkpoint without its optimizer, with some of the data's ``labels`` replaced; no state: a model folder."""
    spec = new_spec(config_of(shards), ShardedDataset(str(shards)).manifest.space)
    spec.labels = [labels.get(label, label) for label in spec.labels]
    save_model(build_model(spec), spec, folder)
    if state is not None:
        write_state(folder, state)
    return folder


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
        ({"opt": "adafactor", "scheduler": "onecycle"}, "--opt adafactor has none: use --scheduler cosine"),
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


@pytest.mark.parametrize(
    ("state", "labels", "options", "message"),
    [
        (TrainerState(epoch=3), {}, {"epochs": 3}, "has been trained for 3 epochs: use a larger --epochs than 3"),
        (TrainerState(epoch=9, epochs_since_best=2), {}, {"patience": 2}, "stopped early, .* raise --patience"),
        (TrainerState(), {"fear": "contempt"}, {}, "has the labels anger, disgust, contempt, .*: use data with"),
        (TrainerState(optimizer="SGD"), {}, {}, "state of the optimizer SGD, which --opt adamw can't continue"),
        (TrainerState(), {}, {"in_chans": 1}, r"another network \(--in-chans 3 is now 1\): use the options"),
        (None, {}, {}, "is not a checkpoint: it has no trainer_state.json"),
    ],
)
def test_a_checkpoint_that_training_can_not_go_on_from_is_refused(
    small_shards: Path,
    tmp_path: Path,
    state: TrainerState | None,
    labels: dict[str, str],
    options: dict[str, Any],
    message: str,
) -> None:
    checkpoint = save_checkpoint(small_shards, tmp_path / "checkpoint", state, labels)
    with pytest.raises(UserError, match=message) as error:
        run_check(small_shards, resume=str(checkpoint), **options)
    assert "\n" not in str(error.value)


def test_training_can_go_on_for_more_epochs_and_with_other_dropout(small_shards: Path, tmp_path: Path) -> None:
    state = TrainerState(epoch=3, epochs_since_best=2, optimizer="AdamW")
    checkpoint = save_checkpoint(small_shards, tmp_path / "checkpoint", state)
    run_check(small_shards, resume=str(checkpoint), epochs=4, patience=3, model_kwargs={"drop_rate": 0.1})


def test_valence_and_arousal_are_needed_for_validation_too(small_shards: Path) -> None:
    dataset = ShardedDataset(str(small_shards))
    dataset.split("train").with_affect = 400
    for head, val_rows in (("both", 0), ("valence-arousal", 2), ("valence-arousal", 0)):
        dataset.split("val").with_affect = val_rows
        config = config_of(small_shards, head=head)
        refused = pytest.raises(UserError, match=r"fewer than two validation rows with valence and .* --head both")
        with nullcontext() if val_rows or head == "both" else refused:
            preflight_check(config, new_spec(config, dataset.manifest.space), dataset)


def test_every_worker_needs_an_unlabelled_image(small_shards: Path, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(encode_png(np.full((24, 24, 3), 90, np.uint8)))
    unlabelled = open_unlabelled(str(tmp_path), cache=str(tmp_path / "cache"))
    dataset = ShardedDataset(str(small_shards))
    for workers in (2, 3):
        config = config_of(small_shards, unlabelled=str(tmp_path), ema=0.9, workers=workers)
        spec = new_spec(config, dataset.manifest.space)
        with pytest.raises(UserError, match=r"has 2 image\(s\) for 3 workers") if workers == 3 else nullcontext():
            preflight_check(config, spec, dataset, unlabelled)


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
