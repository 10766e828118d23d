"""The network: heads, margins, and a folder that comes back as it was saved."""

import math
from pathlib import Path

import pytest
import torch

from fer.classifier.heads import MarginHead
from fer.classifier.model import build_model, load_model, new_spec, save_model
from fer.classifier.options import ModelOptions
from fer.errors import UserError
from fer.labels import SPACES
from fer.registry import WEIGHTS

IMAGES = torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize(
    ("head", "logits", "affect"), [("classification", 1, 0), ("valence-arousal", 0, 1), ("both", 1, 1)]
)
def test_heads(head: str, logits: int, affect: int, tmp_path: Path) -> None:
    spec = new_spec(ModelOptions(backbone="test_resnet", img_size=32, head=head), SPACES["rafdb"])  # type: ignore[arg-type]
    model = build_model(spec).eval()
    out = model(IMAGES)
    assert (out.logits is not None) == bool(logits)
    assert (out.valence_arousal is not None) == bool(affect)
    if out.logits is not None:
        assert out.logits.shape == (2, 7)
    if out.valence_arousal is not None:
        assert out.valence_arousal.shape == (2, 2)
        assert out.valence_arousal.abs().max() <= 1
    save_model(model, spec, tmp_path / "m")
    again, same = load_model(tmp_path / "m")
    assert same == spec
    for one, other in zip(out, again(IMAGES), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_a_folder_without_a_model_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a model folder"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text('{"labels": []}')
    (tmp_path / WEIGHTS).write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.json is not a ModelSpec"):
        load_model(tmp_path)


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_a_margin_lowers_the_true_class_only_in_training(kind: str) -> None:
    head = MarginHead(8, 3, kind, margin=0.2, scale=10)
    features, labels = torch.randn(5, 8), torch.tensor([0, 1, 2, 0, 1])
    plain, trained = head(features), head(features, labels)
    true = torch.nn.functional.one_hot(labels, 3).bool()
    assert torch.equal(plain[~true], trained[~true])
    assert (trained[true] < plain[true]).all()


def test_margins_by_hand() -> None:
    head = MarginHead(2, 2, "arcface", margin=0.3, scale=1)
    head.weight.data = torch.eye(2)
    feature = torch.tensor([[math.cos(0.5), math.sin(0.5)]])
    assert head(feature, torch.tensor([0]))[0, 0].item() == pytest.approx(math.cos(0.8), abs=1e-5)
    head.kind = "cosface"
    assert head(feature, torch.tensor([0]))[0, 0].item() == pytest.approx(math.cos(0.5) - 0.3, abs=1e-5)


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 2, 3])])
def test_a_margin_head_computes_in_float32_in_mixed_precision(labels: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    head = MarginHead(64, 7, "arcface", margin=0.2, scale=30)
    features = torch.randn(4, 64).bfloat16()
    plain = head(features, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head(features, labels)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain)
