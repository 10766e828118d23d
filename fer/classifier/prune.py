"""Structured pruning: a narrower network starts from the strongest channels of a trained one."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from fer.classifier.model import FaceModel, load_model
from fer.classifier.options import TrainConfig
from fer.errors import UserError
from fer.registry import locate_model
from fer.storage import fetch_folder


def start_pruned(model: FaceModel, config: TrainConfig) -> None:
    """Start the backbone of ``model`` from the strongest channels of that of ``--prune``.

    Raises UserError if that one can't be cut to the widths of ``model``.
    """
    assert config.prune is not None
    trained, spec = load_model(fetch_folder(locate_model(config.prune, config)))
    images = torch.zeros(1, spec.options.in_chans, spec.options.img_size, spec.options.img_size)
    try:
        weights = strongest_channels(trained.backbone, model.backbone, images)
    except ValueError as error:
        raise UserError(
            f"--prune {config.prune} can't be cut to this network: {error}; it needs --backbone "
            f"{spec.options.backbone}, --in-chans {spec.options.in_chans}, and its --model-kwargs with fewer channels"
        ) from None
    model.backbone.load_state_dict(weights)


def strongest_channels(wide: nn.Module, narrow: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Weights for ``narrow`` from the channels of ``wide`` whose weights have the largest L2 norms; ``wide`` is cut.

    Channels that depend on each other, such as those that a residual connection adds, stay or go together; the norm is
    that of all layers which they belong to (Fang et al. 2023, https://arxiv.org/abs/2301.12900). ``images``: any input,
    by which the dependencies are found. Raises ValueError if the networks have other layers, or widths that this can't
    reach.
    """
    import torch_pruning

    if odd := sorted(wide.state_dict().keys() ^ narrow.state_dict().keys()):
        raise ValueError(f"only one of them has {odd[0]}")
    names = {module: name for name, module in wide.named_modules()}
    with warnings.catch_warnings():  # of parameters outside layers, such as a layer scale: they are cut too
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
        graph = torch_pruning.DependencyGraph().build_dependency(wide, example_inputs=images)
    squared_norms = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    for group in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        layer = group[0].dep.target.module
        norms = squared_norms(group)
        excess = len(norms) - len(narrow.get_parameter(f"{names[layer]}.weight"))
        if excess > 0:
            group.prune(norms.argsort()[:excess].tolist())
    for name, tensor in narrow.state_dict().items():
        if (found := wide.state_dict()[name].shape) != tensor.shape:
            raise ValueError(f"{name} would have the shape {list(found)}, not {list(tensor.shape)}")
    return wide.state_dict()
