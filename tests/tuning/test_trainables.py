"""What a trial's model says about itself."""

from __future__ import annotations

from pathlib import Path

from fer.classifier.options import TrainConfig
from fer.data.manifest import ShardedDataset
from fer.tracking import Run
from fer.tuning.trainables.classifier import ClassifierTrainable


def test_the_hash_of_the_data_is_that_of_its_rows(small_shards: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=str(small_shards), storage=str(tmp_path))
    assert ClassifierTrainable().prepare_data(config)["hash"] == ShardedDataset(str(small_shards)).manifest.content_hash


def test_a_trials_model_records_its_training_data(small_shards: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=str(small_shards), backbone="test_resnet", img_size=32, batch_size=16)
    run = Run("sqlite://", "id")
    _, settings = ClassifierTrainable().train_loop(config, {"data": str(small_shards)}, run, tmp_path)
    manifest = ShardedDataset(str(small_shards)).manifest
    assert settings["spec"]["data"] == {
        "content_hash": manifest.content_hash,
        "splits": {"label_space": None, "val_split": 0.15, "test_split": 0.0, "split_seed": 0},
        "train_rows": manifest.splits["train"].sample,
        "val_rows": manifest.splits["val"].sample,
    }
