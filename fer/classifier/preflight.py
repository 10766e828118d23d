"""Checks before workers start: the driver reports a mistake at once, not a worker minutes later."""

from __future__ import annotations

import os
import shutil

import torch
from timm.layers import DropPath
from torch import nn

from fer.classifier.losses import build_loss
from fer.classifier.model import FaceModel, build_model
from fer.classifier.options import TrainConfig
from fer.classifier.prune import start_pruned
from fer.classifier.spec import ModelSpec
from fer.data.manifest import ShardedDataset
from fer.errors import UserError
from fer.models.folder import load_folder
from fer.storage import fetch_folder
from fer.training.checkpoint import check_resume, read_state
from fer.training.optim import LRSchedule, build_optimizer

COMPILERS = (os.environ.get("CXX", "g++"), "clang++")
"""What torch.compile builds with: the kernels on CPUs, and the code that starts those on GPUs."""


def has_dropout(model: FaceModel) -> bool:
    """Whether two training passes of the network differ: by dropout of features, or of whole blocks."""
    rates = [getattr(model.backbone, "drop_rate", 0.0)]
    rates += [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)]
    rates += [layer.drop_prob for layer in model.modules() if isinstance(layer, DropPath)]
    return any(rate > 0 for rate in rates)


def check_checkpoint(config: TrainConfig, spec: ModelSpec, model: FaceModel, optimizer: torch.optim.Optimizer) -> None:
    """Raise UserError if ``--resume`` has other labels, another network or optimizer, or leaves nothing to train."""
    check_resume(config)
    if not config.resume:
        return
    name, folder = f"--resume {config.resume}", fetch_folder(config.resume)
    state = read_state(folder)
    if state.epoch >= config.epochs:
        raise UserError(f"{name} has been trained for {state.epoch} epochs: use a larger --epochs than {config.epochs}")
    if config.patience and state.epochs_since_best >= config.patience:
        raise UserError(
            f"{name} stopped early, after {state.epochs_since_best} epochs without a better score: raise --patience"
        )
    if state.optimizer not in ("", type(optimizer).__name__):
        raise UserError(
            f"{name} has the state of the optimizer {state.optimizer}, which --opt {config.opt} can't continue: use "
            "the --opt that it was trained with"
        )
    weights, saved = load_folder(folder, ModelSpec, "cpu")
    if saved.labels != spec.labels:
        raise UserError(
            f"{name} has the labels {', '.join(saved.labels)}, and the data has {', '.join(spec.labels)}: use data "
            "with the same labels"
        )
    shapes, saved_shapes = ({key: x.shape for key, x in each.items()} for each in (model.state_dict(), weights))
    if saved_shapes != shapes:
        changed = [
            f"--{option.replace('_', '-')} {value!r} is now {getattr(config, option)!r}"
            for option, value in saved.options
            if value != getattr(config, option)
        ]
        raise UserError(f"{name} has another network ({'; '.join(changed)}): use the options that it was trained with")


def preflight_check(
    config: TrainConfig, spec: ModelSpec, dataset: ShardedDataset, unlabelled: ShardedDataset | None = None
) -> FaceModel:
    """The new model, with the weights that it starts from.

    Raises UserError if it can't be built, or the data does not have what training needs.
    """
    build_loss(config)
    model = build_model(spec, config.starts_pretrained)
    optimizer = build_optimizer(config, model)
    LRSchedule(config, optimizer, steps_per_epoch=1)
    model.eval()
    with torch.inference_mode():
        try:
            model(torch.zeros(1, config.in_chans, config.img_size, config.img_size))
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"{config.backbone} does not accept images of {config.img_size} pixels ({str(error).splitlines()[0]}); "
                "change --img-size"
            ) from None
    if config.grad_checkpointing:
        try:
            model.backbone.set_grad_checkpointing()
        except (AssertionError, AttributeError):
            raise UserError(
                f"timm does not support gradient checkpointing for {config.backbone}: leave out --grad-checkpointing"
            ) from None
    if config.compile and not any(map(shutil.which, COMPILERS)):
        raise UserError("--compile needs a C++ compiler: install g++ on every node, or leave out --compile")
    rows = dataset.split("train").rows
    if rows // config.workers < config.batch_size:
        raise UserError(
            f"{rows} training rows on {config.workers} worker(s) do not fill one batch of {config.batch_size}: "
            "lower --batch-size or --workers"
        )
    if unlabelled and (images := unlabelled.split("train").rows) < config.workers:
        raise UserError(
            f"--unlabelled {config.unlabelled} has {images} image(s) for {config.workers} workers: add images, or "
            "lower --workers"
        )
    if config.r_drop and not has_dropout(model):
        raise UserError(
            f"--r-drop compares two passes with different dropout, and {config.backbone} has none: add for example "
            """--model-kwargs '{"drop_rate": 0.1}'"""
        )
    if (config.mixup or config.cutmix) and config.batch_size % 2:
        raise UserError("--mixup and --cutmix pair the images of a batch: use an even --batch-size")
    if config.patience and "val" not in dataset.manifest.splits:
        raise UserError("--patience needs a validation split: set --val-split, or use data that has one")
    if config.head != "classification" and not dataset.split("train").with_affect:
        raise UserError(f"--head {config.head}: {dataset.root} has no valence and arousal; use --head classification")
    val = dataset.manifest.splits.get("val")
    if config.head == "valence-arousal" and val and val.with_affect < 2:
        raise UserError(
            f"--head valence-arousal: {dataset.root} has fewer than two validation rows with valence and arousal, by "
            "which the best epoch is chosen; use data that has them, or --head both"
        )
    if config.soft_labels and not dataset.split("train").with_votes:
        raise UserError(f"--soft-labels: {dataset.root} has no annotators' votes; leave out --soft-labels")
    check_checkpoint(config, spec, model, optimizer)
    if config.prune:
        start_pruned(model, config)
    return model
