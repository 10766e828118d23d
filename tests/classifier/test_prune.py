"""Pruning: a narrower network starts from the channels of a trained one with the largest norms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from ray import ObjectRef
from torch import nn

from fer.classifier.model import load_model, new_spec
from fer.classifier.options import TrainConfig
from fer.classifier.preflight import preflight_check
from fer.classifier.pretrained import fetch_pretrained, share_pretrained
from fer.classifier.prune import strongest_channels
from fer.data.manifest import ShardedDataset
from fer.errors import UserError

IMAGES = torch.zeros(1, 3, 32, 32)


def two_layers(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 1, bias=False), nn.Conv2d(width, 1, 1, bias=False))


def test_the_norm_of_a_channel_is_that_of_what_makes_it_and_of_what_reads_it() -> None:
    """Squared norms of the four channels: 3 + 0, 0 + 4, 0.75 + 1, 3 + 0.01. The second and the fourth stay."""
    wide = two_layers(4)
    made = torch.tensor([1, 0, 0.5, 1])[:, None].expand(4, 3)
    read = torch.tensor([[0, 2, 1, 0.1]])
    wide.load_state_dict({"0.weight": made[..., None, None], "1.weight": read[..., None, None]})
    found = strongest_channels(wide, two_layers(2), IMAGES)
    assert torch.equal(found["0.weight"][..., 0, 0], made[[1, 3]])
    assert torch.equal(found["1.weight"][..., 0, 0], read[:, [1, 3]])


@pytest.mark.parametrize(
    ("backbone", "wide", "narrow"),
    [
        ("resnet18", {"channels": [32, 64, 128, 256]}, {"channels": [16, 32, 64, 128]}),
        ("resnet26", {"channels": [64, 64, 96, 128]}, {"channels": [64, 48, 96, 120]}),
        ("seresnet18", {"channels": [64, 64, 64, 64]}, {"channels": [64, 32, 48, 64]}),
        ("convnext_atto", {"dims": [16, 24, 32, 48]}, {"dims": [8, 24, 16, 40]}),
        ("test_vit", {"img_size": 32}, {"mlp_ratio": 2}),
    ],
)
def test_channels_without_weights_go_and_the_network_computes_the_same(
    backbone: str, wide: dict[str, Any], narrow: dict[str, Any], recwarn: pytest.WarningsRecorder
) -> None:
    """The narrow network's weights are the last ones of the wide network, whose other weights are zero."""
    ours = timm.create_model(backbone, num_classes=0, **wide | narrow)
    theirs = timm.create_model(backbone, num_classes=0, **wide)
    weights = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        weights[name].fill_(1 if name.endswith("running_var") else 0)
        weights[name][tuple(slice(-length, None) for length in tensor.shape)] = tensor
    theirs.load_state_dict(weights)
    found = strongest_channels(theirs.eval(), ours, IMAGES)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(found[name], tensor), name
    assert not recwarn.list


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_every_worker_starts_from_the_strongest_channels(
    make_classifier: Callable[..., Path], small_shards: Path, tmp_path: Path
) -> None:
    network = {"backbone": "resnet18", "img_size": 32, "in_chans": 1}
    folder = make_classifier(tmp_path / "wide", model_kwargs={"channels": [16, 16, 32, 32]}, **network)
    dataset = ShardedDataset(str(small_shards))

    def start(**options: Any) -> tuple[nn.Module, ObjectRef | None]:
        config = TrainConfig(data=str(small_shards), batch_size=16, prune=str(folder), **network | options)
        model = preflight_check(config, new_spec(config, dataset.manifest.space), dataset)
        return model.backbone, share_pretrained(config, model)

    narrow = {"channels": [8, 16, 16, 32]}
    started, shared = start(model_kwargs=narrow)
    assert shared is not None
    expected = strongest_channels(load_model(folder)[0].backbone, started, torch.zeros(1, 1, 32, 32))
    found = fetch_pretrained(shared)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
    for options, problem in (
        ({"model_kwargs": {"channels": [64, 16, 32, 32]}}, "only one of them has layer1.0.downsample"),
        ({"model_kwargs": narrow, "in_chans": 3}, r"conv1.weight would have .*\[64, 1, 7, 7\], not \[64, 3, 7, 7\]"),
        ({"model_kwargs": {"channels": [16, 16, 32, 64]}}, "layer4.0.conv1.weight would have"),
    ):
        with pytest.raises(UserError, match=rf"--prune .*/wide can't be cut to this network: {problem}"):
            start(**options)
    with pytest.raises(ValueError, match="--prune starts from a model's weights"):
        start(model_kwargs=narrow, pretrained=True)
