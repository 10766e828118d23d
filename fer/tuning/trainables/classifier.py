"""`fer train` as a trainable."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fer.classifier.options import TrainConfig
from fer.tracking import Run
from fer.tuning.trainables.base import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn
    from upath import UPath


class ClassifierTrainable:
    """Progress is measured in epochs. The score is `val_score`, which `fer train` selects its best weights by."""

    job = "train"
    config_class = TrainConfig

    def prepare_data(self, config: TrainConfig) -> Settings:
        from fer.data.prepare import open_dataset, open_unlabelled

        cache = f"{config.storage}/data"
        dataset = open_dataset(config, cache)
        dataset.split("val")
        unlabelled = open_unlabelled(config.unlabelled, cache) if config.unlabelled else None
        hashes = [each.manifest.content_hash for each in (dataset, unlabelled) if each]
        return {"data": dataset.root, "unlabelled": unlabelled.root if unlabelled else None, "hash": "+".join(hashes)}

    def train_loop(
        self, config: TrainConfig, data: Settings, tracking: Run, folder: UPath
    ) -> tuple[Callable[[Settings], None], Settings]:
        from fer.classifier.model import new_spec
        from fer.classifier.preflight import preflight_check
        from fer.classifier.pretrained import share_pretrained
        from fer.classifier.teacher import locate_teachers
        from fer.classifier.train import train_classifier
        from fer.data.manifest import ShardedDataset
        from fer.data.training_data import record_data
        from fer.training.launch import loop_settings

        dataset = ShardedDataset(data["data"])
        unlabelled = ShardedDataset(data["unlabelled"]) if data.get("unlabelled") else None
        spec = new_spec(config, dataset.manifest.space, record_data(dataset), dataset.manifest.preprocessing)
        pretrained = share_pretrained(config, preflight_check(config, spec, dataset, unlabelled))
        own = {"spec": spec.model_dump(), "pretrained": pretrained, "teachers": locate_teachers(config, spec)}
        others = unlabelled.root if unlabelled else None
        settings = loop_settings(config, dataset.root, tracking, unlabelled=others, **own)
        return train_classifier, settings

    def trial_epoch(self, config: TrainConfig, metrics: dict[str, Any]) -> int | None:
        return int(metrics["epoch"]) if "epoch" in metrics else None

    def max_epochs(self, config: TrainConfig) -> int:
        return config.epochs

    def progress(self, config: TrainConfig, metrics: dict[str, Any]) -> int | None:
        return self.trial_epoch(config, metrics)

    def max_progress(self, config: TrainConfig) -> int:
        return self.max_epochs(config)

    def score(self, metrics: dict[str, Any]) -> float:
        return float(metrics["val_score"])

    def network(self, config: TrainConfig, data: Settings) -> tuple[nn.Module, tuple[Tensor, ...]]:
        import torch

        from fer.classifier.model import build_model, new_spec
        from fer.data.manifest import ShardedDataset

        spec = new_spec(config, ShardedDataset(data["data"]).manifest.space)
        return build_model(spec), (torch.zeros(1, config.in_chans, config.img_size, config.img_size),)
